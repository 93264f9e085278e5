"""`unimodel eval --stage world`: the score card of a world."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def world_card(run: Path, split: Literal["validation", "test"]) -> None:
    """Makes the card of a run, unless it is there, and prints it."""
    from rich.table import Table

    from unimodel.evaluation.scorecard.finished import has_card
    from unimodel.evaluation.scorecard.standing import card_lines, place_lines, verdict
    from unimodel.observe.progress import console, say
    from unimodel.run_folder import RunFolder, read_json

    folder = RunFolder(run)
    config = folder.config()
    with folder.locked():
        if has_card(config, folder, split):
            say("this card is of these weights already")
        else:
            from unimodel.evaluation.scorecard.card import make_card

            make_card(run, split)
    card = read_json(folder.scorecard)
    table = Table("of", "score", "model [95%]", *card["predictors"][1:], "baseline", "real", "needed", "gate")
    last = ""
    for line in card_lines(card):
        if last and line.of != last:
            table.add_section()
        gate = "passed" if line.passed else "FAILED"
        table.add_row(
            line.of if line.of != last else "", line.name, *line.figures, line.baseline, line.real, line.needed, gate
        )
        last = line.of
    console.print(table)
    for score in card["scores"]:
        if score["not_measured"]:
            say(f"not measured: {score['name']}: {score['not_measured']}")
    say(verdict(card["scores"]))
    for place in place_lines(card):
        say(place)
    say(str(folder.scorecard))
