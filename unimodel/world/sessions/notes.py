"""What happened to a world besides its steps, in sentences."""

from __future__ import annotations

from typing import NamedTuple

from unimodel.world.sessions.log import Entry
from unimodel.world.sessions.past import Birth, LivedBy


class Sentence(NamedTuple):
    """With the tick of what it tells."""

    tick: int
    text: str


def note_of(entry: Entry, birth: Birth) -> Sentence | None:
    """What to tell of an entry that is neither a step nor an act; nothing of a command that only looked."""
    deed, who = entry.deed, entry.deed.agent or "Somebody"
    seat = f" {birth.seat_name(deed.value['seat'])}" if "seat" in deed.value else ""
    match deed.kind:
        case "born":
            text = "The world began."
        case "open":
            text = "A server was started with it." if deed.value["for"] == "play" else ""
        case "join":
            text = f"{who} came as{seat}." if seat else f"{who} came."
        case "seat":
            text = f"{who} is{seat} now."
        case "leave":
            text = f"{who} left."
        case "event":
            text = f"{who} made it happen: “{deed.value['text']}”."
        case "mission":
            text = f"{who} told it: “{deed.value['text']}”."
        case "tag":
            text = f"This moment was named “{deed.value['name']}”."
        case "rewind":
            text = f"It was taken back here from tick {deed.value['from']}."
        case "branch":
            text = f"It left “{deed.value['of']}” here."
        case "adopt":
            text = f"From here on it is lived by {LivedBy(**deed.value['lived_by'])}."
        case _:
            text = ""
    return Sentence(deed.tick, text) if text else None
