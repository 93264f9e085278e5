"""What every part of a config or build file is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


def _check_odd(cells: int) -> int:
    if cells % 2 == 0:
        raise ValueError(f"the agent stands in the middle of an edge: {cells} must be odd, e.g. {cells - 1}")
    return cells


ViewCells = Annotated[int, Field(ge=3), AfterValidator(_check_odd)]
"""Of a grid, how many cells a side an agent sees before it."""


class Settings(BaseModel):
    """Strict, closed and immutable: a typo or a wrong type never becomes a silent default."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
