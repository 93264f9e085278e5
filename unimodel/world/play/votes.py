"""Blind trials of two checkpoints: which stands on which side is drawn anew each time, and told after the vote."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from unimodel.run_folder import append_json_line, read_json_lines
from unimodel.world.play.dream import Checkpoint
from unimodel.world.play.protocol import Choice, Revealed

VOTES_FILE = "votes.jsonl"


@dataclass(slots=True)
class BlindTrial:
    """One trial: the dreams on the left and on the right, by number."""

    number: int
    episode: int
    left: int
    right: int
    result: Revealed | None = None

    @staticmethod
    def drawn(number: int, num_episodes: int) -> BlindTrial:
        """A trial from some episode, with the sides shuffled."""
        left = secrets.randbelow(2)
        return BlindTrial(number, secrets.randbelow(num_episodes), left, 1 - left)


def vote(run: Path, trial: BlindTrial, checkpoints: tuple[Checkpoint, ...], choice: Choice, steps: int) -> Revealed:
    """Writes the vote down as a line of RUN/votes.jsonl and tells what was where. Raises OSError when it cannot be."""
    left, right = checkpoints[trial.left], checkpoints[trial.right]
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "episode": trial.episode,
        "steps": steps,
        "left": asdict(left),
        "right": asdict(right),
        "choice": choice,
    }
    append_json_line(run / VOTES_FILE, line)
    wins, same = tally(run, left, right)
    return Revealed(choice=choice, left=str(left), right=str(right), wins=wins, same=same)


def tally(run: Path, one: Checkpoint, other: Checkpoint) -> tuple[dict[str, int], int]:
    """All votes on a pair of checkpoints: how often each was chosen, and how often neither."""
    counts: Counter[str] = Counter()
    pair = {one, other}
    for line in read_json_lines(run / VOTES_FILE):
        sides = {side: Checkpoint(**line[side]) for side in ("left", "right")}
        if set(sides.values()) == pair:
            counts[str(sides[line["choice"]]) if line["choice"] in sides else ""] += 1
    return {str(checkpoint): counts[str(checkpoint)] for checkpoint in (one, other)}, counts[""]
