"""Which items are to be predicted from which states: the targets of an evaluation."""

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, ParamSpec, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from recoach.data.dataset import Dataset, RaggedArray, join_rows
from recoach.data.interactions import LongArray
from recoach.data.log_columns import Columns
from recoach.data.protocol import Target, TargetConfig
from recoach.errors import ConfigError, DataError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
BoolArray = npt.NDArray[np.bool_]
Part = Literal["valid", "test"]
Repeats = Literal["new", "all", "repeat", "recbole"]
"""Items of the history as targets. `new`: they are masked, and targets among them left out. `all`:
nothing is masked. `repeat`: only they are targets, nothing is masked. `recbole`: they are masked
for models that read no history, and stay targets."""


FORMER_MASK_SEEN: dict[object, Repeats] = {"all": "new", "none": "all", "recbole": "recbole"}
"""Values of the former setting `mask_seen`, and what they are called now."""


def accept_mask_seen(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Return the function with its former keyword `mask_seen` for `repeats`, with a warning."""

    @functools.wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        if "mask_seen" in kwargs:
            former = kwargs.pop("mask_seen")
            kwargs["repeats"] = FORMER_MASK_SEEN.get(former, former)
            warnings.warn(
                f"mask_seen={former!r} is now repeats={kwargs['repeats']!r}; the old name will be "
                "removed.",
                DeprecationWarning,
                stacklevel=2,
            )
        return function(*args, **kwargs)

    return call


class NoTargetsError(DataError):
    """A part of a dataset has nothing to predict.

    Attributes:
        reasons: what was left out, in brackets after a space; "" if nothing was.
    """

    def __init__(self, name: str, part: Part, reasons: str) -> None:
        super().__init__(
            f"No user of {name} has an item in {part} to predict{reasons}. Evaluate on another "
            "split or with other settings."
        )
        self.reasons = reasons


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """B states of users and the N items to predict from them.

    Attributes:
        part: "valid" or "test".
        repeats: items of the history as targets.
        past: the sequences of all users, up to the end of the evaluated part.
        users: int64[B], user of each state, in order; several states of one user if each event
            is predicted from the ones before.
        ends: int64[B], number of events of the user's sequence that are the history of a state.
        counts: int64[B], number of targets of each state, at least 1.
        positions: int64[N], place of each target in `past.values`, ordered by state.
        repeated: bool[N], whether the target is in the history of its state.
        cold: bool[N], whether the target does not occur in train.
        excluded: what was left out: states without history, repeated and cold targets.
    """

    part: Part
    repeats: Repeats
    past: RaggedArray
    users: LongArray
    ends: LongArray
    counts: LongArray
    positions: LongArray
    repeated: BoolArray
    cold: BoolArray
    excluded: dict[str, int]

    @property
    def items(self) -> LongArray:
        """int64[N], the target items."""
        return self.past.values[self.positions].astype(np.int64)

    @property
    def states(self) -> LongArray:
        """int64[N], index of the state of each target."""
        return np.repeat(np.arange(len(self.users)), self.counts)

    def column(self, name: str) -> pl.Series | None:
        """Return a column of the log for the N targets; None if the log has none."""
        values = self.past.columns.get(name)
        return None if values is None else values.gather(self.positions)

    def select(self, states: BoolArray) -> "Targets":
        """Return the states of a mask, bool[B]."""
        of_target = states[self.states]
        return replace(
            self,
            users=self.users[states],
            ends=self.ends[states],
            counts=self.counts[states],
            positions=self.positions[of_target],
            repeated=self.repeated[of_target],
            cold=self.cold[of_target],
        )


def targets_of(dataset: Dataset, part: Part, repeats: Repeats = "new") -> Targets:
    """Return the states and targets of a part of a dataset, as its split and `repeats` say.

    An item that is twice among the targets of one state counts once.

    Args:
        dataset: the split log.
        part: "valid" or "test".
        repeats: items of the history as targets.

    Raises:
        ConfigError: there is no such part.
        NoTargetsError: no target is left.
    """
    if part not in get_args(Part):
        raise ConfigError(
            f"There is no part {part!r} to predict. Choose 'valid', the validation items, or "
            "'test', the test items."
        )
    parts = [dataset.train, dataset.valid, dataset.test]
    segment = parts[1 if part == "valid" else 2]
    earlier = parts[: 1 if part == "valid" else 2]
    past = join_rows([*earlier, segment])
    starts = np.sum([rows.lengths for rows in earlier], axis=0)
    split = dataset.split
    generator = np.random.default_rng(split.split_seed)
    chosen = _choose(past, starts, split, (split.target_of(part), generator))
    states, positions, users, ends = chosen
    is_cold = np.ones(dataset.n_items, dtype=np.bool_)
    is_cold[dataset.train.values] = False
    first = _first_places(past, dataset.n_items)
    repeated = first[positions] < past.offsets[users[states]] + ends[states]
    cold = is_cold[past.values[positions]]
    keep = _is_first_of_state(states, past.values[positions].astype(np.int64), dataset.n_items)
    excluded = {}
    for name, out in _exclusions(dataset, repeats, (users, ends), (states, repeated, cold)).items():
        excluded[name] = int((keep & out).sum())
        keep &= ~out
    counts = np.bincount(states[keep], minlength=len(users))
    if not counts.any():
        raise NoTargetsError(dataset.name or "the dataset", part, _reasons(excluded))
    left = counts > 0
    return Targets(
        part,
        repeats,
        past,
        users[left],
        ends[left],
        counts[left],
        positions[keep],
        repeated[keep],
        cold[keep],
        {name: count for name, count in excluded.items() if count},
    )


def cold_targets_of(targets: Targets, dataset: Dataset) -> Targets:
    """Return the same targets, cold where they do not occur in the train part of this dataset.

    For models that are trained again on train and validation, see `merge_valid`.
    """
    cold = ~np.isin(targets.items, dataset.train.values)
    return replace(targets, cold=cold)


def _exclusions(
    dataset: Dataset,
    repeats: Repeats,
    of_states: tuple[LongArray, LongArray],
    of_targets: tuple[LongArray, BoolArray, BoolArray],
) -> dict[str, BoolArray]:
    """Return reason -> bool[N], which targets are left out for it."""
    (users, ends), (states, repeated, cold) = of_states, of_targets
    split = dataset.split
    result = {"without history": ends[states] < split.min_history}
    if split.cold_users == "drop":
        result["cold users"] = (dataset.train.lengths == 0)[users[states]]
    if split.cold == "drop":
        result["cold items"] = cold
    if repeats in ("new", "repeat"):
        name = "repeated items" if repeats == "new" else "new items"
        result[name] = repeated if repeats == "new" else ~repeated
    return result


def _choose(
    past: RaggedArray,
    starts: LongArray,
    split: TargetConfig,
    target: tuple[Target, np.random.Generator],
) -> tuple[LongArray, LongArray, LongArray, LongArray]:
    """Return (state of each target, its position, user of each state, end of its history).

    Args:
        past: the users' sequences.
        starts: int64[n_users], number of events before the evaluated part of each.
        split: event types of the targets, and ties.
        target: which events are targets, and what draws the target of `random`.
    """
    offsets = past.offsets
    users = np.repeat(np.arange(len(past)), past.lengths)
    places = np.arange(len(past.values)) - offsets[users]
    is_candidate = places >= starts[users]
    if split.target_events:
        check_target_events(past.columns, split.target_events)
        types = past.columns["event_type"].cast(pl.String)
        is_candidate &= types.is_in(list(split.target_events)).fill_null(value=False).to_numpy()
    positions = np.flatnonzero(is_candidate)
    group = _tied_groups(past) if split.ties == "group" else np.arange(len(past.values))
    if target[0] != "all":
        return _steps(positions, users, group, past, target)
    state_users, states = np.unique(users[positions], return_inverse=True)
    first_of_part = offsets[state_users] + starts[state_users]
    return states, positions, state_users, group[first_of_part] - offsets[state_users]


def check_target_events(columns: Columns, target_events: Sequence[str]) -> None:
    """Raise a DataError if the log has no event types, or not all that are to be targets."""
    if not target_events:
        return
    if "event_type" not in columns:
        raise DataError(
            "split.target_events: the log has no event types. Map their column with "
            "--column event_type=NAME, or leave target_events out."
        )
    known = columns["event_type"].unique(maintain_order=True).cast(pl.String).to_list()
    if isinstance(columns["event_type"].dtype, pl.Enum):
        known = columns["event_type"].dtype.categories.to_list()
    if unknown := [name for name in target_events if name not in known]:
        raise DataError(
            f"split.target_events: the log has no event type {unknown[0]!r}. It has "
            f"{', '.join(known)}."
        )


def _steps(
    positions: LongArray,
    users: LongArray,
    group: LongArray,
    past: RaggedArray,
    target: tuple[Target, np.random.Generator],
) -> tuple[LongArray, LongArray, LongArray, LongArray]:
    """Return the targets of states that end just before them, see `_choose`.

    `group` is int64[m], the first position of the events that are one step with each event.
    """
    kind, generator = target
    steps, states = np.unique(group[positions], return_inverse=True)
    step_users = users[steps]
    n_steps = np.bincount(step_users, minlength=len(past))
    first = np.searchsorted(step_users, np.arange(len(past)))[n_steps > 0]
    counts = n_steps[n_steps > 0]
    if kind == "successive":
        kept = np.arange(len(steps))
    elif kind == "random":
        kept = first + generator.integers(counts)
    else:
        kept = first if kind == "first" else first + counts - 1
    new_state = np.full(len(steps), -1)
    new_state[kept] = np.arange(len(kept))
    is_kept = new_state[states] >= 0
    ends = steps[kept] - past.offsets[step_users[kept]]
    return new_state[states][is_kept], positions[is_kept], step_users[kept], ends


def _tied_groups(past: RaggedArray) -> LongArray:
    """Return int64[m], the position of the first event of the user with the same time."""
    position = np.arange(len(past.values))
    if "timestamp" not in past.columns or not len(position):
        return position
    times = past.columns["timestamp"].to_numpy()
    starts_group = np.append(True, times[1:] != times[:-1])
    starts_group[past.offsets[:-1][past.lengths > 0]] = True
    return np.maximum.accumulate(np.where(starts_group, position, 0))


def _first_places(past: RaggedArray, n_items: int) -> LongArray:
    """Return int64[m], the position of the first event of the same user and item."""
    users = np.repeat(np.arange(len(past), dtype=np.int64), past.lengths)
    keys = users * n_items + past.values
    order = np.argsort(keys, kind="stable")
    is_new = np.append(True, np.diff(keys[order]) > 0)[: len(order)]
    first = np.empty(len(keys), dtype=np.int64)
    first[order] = order[np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))]
    return first


def _is_first_of_state(states: LongArray, items: LongArray, n_items: int) -> BoolArray:
    keys = states * n_items + items
    result = np.zeros(len(keys), dtype=np.bool_)
    result[np.unique(keys, return_index=True)[1]] = True
    return result


def _reasons(excluded: dict[str, int]) -> str:
    reasons = [f"{count:,} {name}" for name, count in excluded.items() if count]
    return f" ({', '.join(reasons)} left out)" if reasons else ""
