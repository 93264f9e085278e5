"""The model card of an export: what it is, how to load it, what was measured. Only figures that were measured."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from unimodel.config import RunConfig


def model_card(
    config: RunConfig,
    source: dict[str, Any],
    rows: list[dict[str, Any]],
    ranges: dict[str, list[int]],
    num_parameters: int,
) -> str:
    """README.md with the Hub's YAML header, from `card.md.j2`."""
    environment = Environment(
        loader=PackageLoader("unimodel.export", "."), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template("card.md.j2").render(
        config=config,
        recording=config.data.recording,
        source=source,
        rows=rows,
        ranges=ranges,
        num_parameters=num_parameters,
    )
