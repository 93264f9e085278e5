"""`unimodel eval --stage world`: the score card of a world."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def world_card(run: Path, split: Literal["validation", "test"]) -> None:
    """Makes the card of a run, unless it is there, and prints it."""
    from rich.table import Table

    from unimodel.evaluation.scorecard.finished import has_card
    from unimodel.evaluation.scorecard.standing import card_lines, verdict
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
        if last and line[0] != last:
            table.add_section()
        table.add_row("" if line[0] == last else line[0], *line[1:])
        last = line[0]
    console.print(table)
    for score in card["scores"]:
        if score["not_measured"]:
            say(f"not measured: {score['name']}: {score['not_measured']}")
    say(verdict(card["scores"]))
    for place in card["standing"]:
        gates = f"{place['passed']} of {place['of']} gates that all have"
        say(f"{place['predictor']:12} {gates}, {place['mean_way']:.0%} of the way to reality")
    say(str(folder.scorecard))
