"""The report's score card: that of `scorecard.json`, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unimodel.config import RunConfig
from unimodel.evaluation.scorecard.standing import Line, card_lines, place_lines, verdict
from unimodel.run_folder import RunFolder, read_json
from unimodel.training.finished import finished_stages


@dataclass(frozen=True, slots=True)
class ReportedCard:
    """What the page says of it: `lines` of what is measured, `missing` (score, why), `places` of who comes first."""

    about: str
    verdict: str
    lines: list[Line]
    missing: list[tuple[str, str]]
    places: list[str]
    warning: str


def reported_card(run: RunFolder, config: RunConfig) -> ReportedCard | None:
    """Of a run that has one."""
    if not run.scorecard.exists():
        return None
    card: dict[str, Any] = read_json(run.scorecard)
    scores = card["scores"]
    about = f"Stage {card['stage']} at step {card['step']:,}, {card['episodes']} held-out episodes. "
    about += f"Window only: {card['window_only']}."
    now = finished_stages(run, [name for name, _ in config.ordered_stages])
    is_old = bool(now) and card["state"]["stages"] != now
    return ReportedCard(
        about,
        verdict(scores),
        card_lines(card),
        [(score["name"], score["not_measured"]) for score in scores if score["not_measured"]],
        place_lines(card),
        f"This card is older than the checkpoints: run `unimodel eval --stage world {run.path}`." if is_old else "",
    )
