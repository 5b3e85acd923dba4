"""Settings of constraints on the lists that a fine-tuned model serves."""

from typing import Self

from pydantic import Field, model_validator

from recoach.config import StrictConfig


class ConstraintConfig(StrictConfig):
    """A bound on the exposure of a group of items, or on what accuracy may be given up."""

    column: str | None = None
    """Column of the items table that divides the items into groups, such as providers."""
    member: str | None = None
    """The value of the column that is bounded; None bounds every value, each by itself."""
    new_days: float | None = Field(default=None, gt=0)
    """In place of a column: items whose first training event is at most so many days older than
    the last event of train."""
    at_least: float | None = Field(default=None, gt=0, lt=1)
    """Smallest share of the exposure."""
    at_most: float | None = Field(default=None, gt=0, lt=1)
    """Largest share of the exposure."""
    max_fall: float | None = Field(default=None, gt=0, lt=1)
    """In place of a group: by how much the selecting metric may fall, relative to the base."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        is_group = self.column is not None or self.new_days is not None
        bounds = [bound for bound in (self.at_least, self.at_most) if bound is not None]
        if self.max_fall is not None and (is_group or bounds or self.member is not None):
            raise ValueError("max_fall bounds the selecting metric; it stands alone")
        if self.max_fall is None and not (is_group and len(bounds) == 1):
            raise ValueError(
                "a constraint is either max_fall, or column or new_days with one of at_least and "
                "at_most, such as {new_days = 30, at_least = 0.2}"
            )
        if self.new_days is not None and (self.column, self.member) != (None, None):
            raise ValueError("new_days stands without column and member")
        if self.member is not None and self.column is None:
            raise ValueError("member is a value of a column; name the column")
        if self.at_least is not None and self.column is not None and self.member is None:
            raise ValueError("at_least needs the member of the column that it is for")
        return self

    @property
    def name(self) -> str:
        """The name in logs and results."""
        if self.max_fall is not None:
            return "accuracy"
        if self.new_days is not None:
            return f"new items ({self.new_days:g} days)"
        return f"{self.column}" if self.member is None else f"{self.column} = {self.member}"
