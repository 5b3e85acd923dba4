"""How a log is split, as values: by position, by time, by ratio, or already split."""

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from recoach.config import StrictConfig

Target = Literal["last", "first", "random", "successive", "all"]


Names = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]
"""Names; a list, as TOML and JSON have it, is accepted also where validation is strict."""


def _date_text(value: object) -> object:
    """Return a date of TOML as text."""
    return value.isoformat() if isinstance(value, date) else value


Moment = Annotated[float | str, BeforeValidator(_date_text)]
"""A quantile of the times, or a date."""


class TargetConfig(StrictConfig):
    """Which held-out events are predicted, and from which states."""

    target: Target = "all"
    """The held-out events to predict: the last, the first or a random one of each user; each of
    them after the ones before (`successive`); or all of them from the state before the first."""

    target_events: Names = ()
    """Event types that can be targets, such as ["purchase"]; empty: all. Histories keep all."""

    cold: Literal["miss", "drop"] = "miss"
    """Targets that do not occur in train: count them as misses, or leave them out."""

    cold_users: Literal["keep", "drop"] = "keep"
    """Users without training events: evaluate them by their history, or leave them out."""

    min_history: int = Field(default=1, ge=0)
    """States with fewer events in their history are not evaluated."""

    ties: Literal["file", "random", "group"] = "file"
    """Order of a user's events with equal times: that of the file, a random one, or none: then all
    of them are the targets of one state, whose history ends before them."""

    split_seed: int = Field(default=0, ge=0)
    """Seed of random targets, random ties, random ratios and of validation users."""

    def target_of(self, part: Literal["valid", "test"]) -> Target:
        """Return which events of a part are predicted."""
        del part
        return self.target


class LeaveLastOut(TargetConfig):
    """Each user's last events are the test items, the one before them the validation item."""

    kind: Literal["leave_last_out"] = "leave_last_out"
    test_items: int = Field(default=1, ge=1)
    """Number of last interactions of every user that are held out for test."""


class ByTime(TargetConfig):
    """Train on the events up to one moment, test on the later ones (global temporal split).

    Source: Gusak et al. 2025, "Time to Split" (RecSys), whose `q` is `at`.
    """

    kind: Literal["time"] = "time"
    target: Target = "last"
    at: Moment = 0.9
    """The last moment of train: a quantile of all times, or the date (UTC) on which test begins."""
    until: Moment | None = None
    """End of test, as `at`; later events are left out. None: the end of the log."""
    valid: Literal["time", "users", "last"] = "time"
    """Validation events: those after `valid_at`, all those of some users, or each user's last."""
    valid_at: Moment = 0.9
    """With `valid = "time"`: a quantile of the times before test, or a date."""
    valid_users: int = Field(default=1024, ge=1)
    """With `valid = "users"`: number of random users that are left out of train."""

    @model_validator(mode="after")
    def _has_validation_targets(self) -> Self:
        if self.valid == "users" and self.target in ("first", "all") and self.min_history:
            raise ValueError(
                f'valid = "users" with target = "{self.target}" predicts the events of users '
                f"from no history, which min_history = {self.min_history} leaves out. Set target "
                "to last, random or successive, or min_history to 0"
            )
        return self


class Rolling(TargetConfig):
    """Several splits by time, whose test windows follow each other (expanding training window).

    Each window has the same number of events, and so has the validation part just before it.
    """

    target: Target = "last"
    windows: int = Field(default=4, ge=1)
    """Number of windows."""
    share: float = Field(default=0.3, gt=0, lt=1)
    """Share of all events, the latest, that the windows divide."""

    def splits(self) -> list[ByTime]:
        """Return the split of each window, the earliest first."""
        settings = {name: getattr(self, name) for name in TargetConfig.model_fields}
        width = self.share / self.windows
        bounds = [1 - self.share + width * number for number in range(self.windows)]
        if bounds[0] <= width:
            raise ValueError(
                "the first window leaves no events to train on; use more windows, or a smaller "
                "share"
            )
        ends: list[float | None] = [*bounds[1:], None]
        return [
            ByTime(**settings, at=at, until=until, valid_at=1 - width / at)
            for at, until in zip(bounds, ends, strict=True)
        ]


class ByRatio(TargetConfig):
    """Each user's events are divided by ratio, in time order or at random."""

    kind: Literal["ratio"] = "ratio"
    valid_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of each user's events for validation."""
    test_ratio: float = Field(default=0.1, gt=0, lt=1)
    """Share of each user's events for test."""
    order: Literal["time", "random"] = "time"
    """Hold out the latest events of each user, or random ones."""

    @model_validator(mode="after")
    def _leaves_training_events(self) -> Self:
        if self.valid_ratio + self.test_ratio >= 1:
            raise ValueError("valid_ratio and test_ratio together must be below 1.")
        return self


class ByUsers(TargetConfig):
    """Random users are held out with all their events (strong generalisation).

    For sessions it is the split of Xin et al. 2020 (SQN), who divide 8 : 1 : 1. Models that have a
    vector per user know none for the held-out users.
    """

    kind: Literal["users"] = "users"
    target: Target = "successive"
    valid_ratio: float = Field(default=0.1, gt=0, lt=1)
    """Share of the users for validation."""
    test_ratio: float = Field(default=0.1, gt=0, lt=1)
    """Share of the users for test."""

    @model_validator(mode="after")
    def _leaves_training_users(self) -> Self:
        if self.valid_ratio + self.test_ratio >= 1:
            raise ValueError("valid_ratio and test_ratio together must be below 1.")
        if self.target in ("first", "all") and self.min_history:
            raise ValueError(
                f'split "users" with target = "{self.target}" predicts the events of users from '
                f"no history, which min_history = {self.min_history} leaves out. Set target to "
                "last, random or successive, or min_history to 0"
            )
        return self


class Given(TargetConfig):
    """The log comes in parts: train, test and, if there is one, valid."""

    kind: Literal["given"] = "given"
    valid: Literal["last", "users", "none", "given"] = "last"
    """Without a valid part: each user's last training event, all events of the last training users
    of the file, or none. With a valid part, always `given`."""
    valid_ratio: float = Field(default=0.1, gt=0, lt=1)
    """With `valid = "users"`: share of the training users."""
    valid_target: Target | None = None
    """The validation events to predict; None: those of `target`. A test file of prefixes has its
    target at the end of each line (`last`), and whole sessions of training give the same kind of
    states with `successive`."""

    def target_of(self, part: Literal["valid", "test"]) -> Target:
        """Return which events of a part are predicted."""
        return self.valid_target if part == "valid" and self.valid_target else self.target


class Auto(StrictConfig):
    """By time where the log has times that allow it, else leave-last-out."""

    kind: Literal["auto"] = "auto"


def _named(value: object) -> object:
    """Return a table of settings for the name of a split; a table without a kind is by time."""
    if isinstance(value, str):
        return {"kind": value}
    return {"kind": "time"} | value if isinstance(value, dict) else value


AnySplit = LeaveLastOut | ByTime | ByRatio | ByUsers | Given
"""How a dataset was split."""

LogSplit = Annotated[
    Auto | AnySplit,
    Field(discriminator="kind"),
    BeforeValidator(_named),
]
"""A split of a log; in TOML its name, `split = "time"`, or a table with its settings."""

Split = Annotated[AnySplit, Field(discriminator="kind"), BeforeValidator(_named)]
"""The same, in a file."""
