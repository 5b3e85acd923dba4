"""Settings of re-rankers, and the range of the one knob that each of them has."""

import math
from typing import Final, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from recoach.config import StrictConfig

RerankName = Literal[
    "calibration",
    "cost",
    "dpp",
    "exposure_cap",
    "exposure_floor",
    "mmr",
    "popularity",
    "value",
    "xquad",
]


class Knob(NamedTuple):
    """The number that trades accuracy for the objective of a re-ranker."""

    low: float
    high: float
    neutral: float
    """The value at which lists are those of the model."""
    values: tuple[float, ...]
    """Eight values for a front, in units of `Reranker.unit`."""


_WEIGHT: Final = Knob(0.0, 1.0, 0.0, (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9))
_FACTOR: Final = Knob(0.0, math.inf, 0.0, (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0))
KNOBS: Final[dict[RerankName, Knob]] = {
    "calibration": _WEIGHT._replace(values=(0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)),
    "cost": _FACTOR,
    "dpp": _WEIGHT._replace(values=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)),
    "exposure_cap": Knob(0.0, 1.0, 1.0, (0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05)),
    "exposure_floor": Knob(0.0, 1.0, 0.0, (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)),
    "mmr": _WEIGHT,
    "popularity": _FACTOR,
    "value": _FACTOR,
    "xquad": _WEIGHT,
}
_COLUMN_OF: Final = frozenset({"cost", "value", "exposure_cap", "exposure_floor"})
"""Re-rankers that read a column of the items table."""


class RerankConfig(StrictConfig):
    """How lists are chosen from the best items of a model."""

    by: RerankName
    """The re-ranker: see `recoach.rerank.registry.RERANKERS`."""
    knob: float
    """How much accuracy is traded: a weight 0..1 (mmr, xquad, dpp, calibration), a factor of at
    least 0 (popularity, cost, value), the largest share of exposure of an item or a group
    (exposure_cap), the smallest share of the chosen items (exposure_floor)."""
    depth: int = Field(default=100, ge=1, le=1000)
    """Number of best items of the model that a list is chosen from."""
    category: str | None = None
    """Column of the items table with categories. Default: category, categories, genre or genres,
    or else clusters of the model's item vectors."""
    column: str | None = None
    """Column of the items table with costs (cost), values (value; default: the mean `value` of the
    item's training events) or groups of items such as providers (exposure_cap, exposure_floor)."""
    member: str | None = None
    """The group that exposure_floor protects."""
    new_days: float | None = Field(default=None, gt=0)
    """Age in days, at the end of train, up to which exposure_floor protects items."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = KNOBS[self.by][:2]
        if not low <= self.knob <= high or (self.by == "exposure_cap" and self.knob == 0):
            limits = f"at least {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"
            raise ValueError(f"the knob of {self.by} is {limits}, not {self.knob:g}")
        if self.column is not None and self.by not in _COLUMN_OF:
            raise ValueError(f"{self.by} reads no column; leave column out")
        if self.by == "cost" and self.column is None:
            raise ValueError("cost needs column, the costs in the items table")
        protects = (self.column is not None and self.member is not None, self.new_days is not None)
        if self.by == "exposure_floor" and sum(protects) != 1:
            raise ValueError("exposure_floor needs either column and member, or new_days")
        if self.by != "exposure_floor" and (self.member is not None or self.new_days is not None):
            raise ValueError("only exposure_floor has member and new_days; leave them out")
        if self.new_days is not None and (self.column, self.member) != (None, None):
            raise ValueError("new_days stands without column and member")
        return self
