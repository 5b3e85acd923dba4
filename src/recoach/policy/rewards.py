"""Verifiable rewards: the items of each state that the log rewards, and combined functions."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, get_args

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recoach import distributed
from recoach.data.dataset import Dataset, event_types
from recoach.data.interactions import LongArray
from recoach.data.queries import Seen, rejected_after, slice_of_states
from recoach.data.transfer import to_device
from recoach.errors import ConfigError
from recoach.policy.exposure_reward import ExposureReward
from recoach.policy.reward_funcs import RewardFunc, Scope, name_of, scope_of

Aggregation = Literal["sum_then_normalize", "normalize_then_sum"]
COLUMNS: Final = ("rating", "value", "event_type", "returns")
"""The columns of the log that reward functions are called with."""
_OPTIONAL: Final = ("value", "event_type", "returns", "rejected")
"""Columns that a function need not take."""
UserStates = tuple[LongArray, LongArray]
"""int64[B] users and int64[B] numbers of their events before each state."""


class Rewards(NamedTuple):
    """The rewarded items of each state; every other item has reward 0."""

    states: Tensor
    """int64[N] sorted."""
    items: Tensor
    """int64[N], no pair (state, item) twice."""
    values: Tensor
    """float32[N]."""
    parts: Tensor | None = None
    """float32[F, N], the unweighted rewards of each function."""
    host: "Rewards | None" = None
    """The same rewards on the host, which `to` keeps."""

    def to(self, device: torch.device) -> "Rewards":
        """Return the same rewards on another device."""
        parts = None if self.parts is None else to_device(self.parts, device)
        states, items, values = (to_device(tensor, device) for tensor in self[:3])
        host = self if self.states.device.type == "cpu" and self.host is None else self.host
        return Rewards(states, items, values, parts, host)

    @property
    def on_host(self) -> "Rewards":
        """The same rewards on the host."""
        if self.host is not None:
            return self.host
        return self if self.states.device.type == "cpu" else self.to(torch.device("cpu"))

    def between(self, start: int, stop: int) -> slice:
        """Return the slice of the pairs of states start..stop-1."""
        return slice_of_states(self.on_host.states.numpy(), start, stop)

    def where(self, keep: Tensor) -> "Rewards":
        """Return the pairs for which bool[N] `keep` is true."""
        kept = keep.nonzero().squeeze(1)  # once: every indexing by a mask would count it again
        parts = self.parts if self.parts is None else self.parts[:, kept]
        return Rewards(self.states[kept], self.items[kept], self.values[kept], parts)


class LoggedItems(NamedTuple):
    """Logged items of states, sorted by state, then item."""

    states: Tensor
    """int64[N]."""
    items: Tensor
    """int64[N], no pair twice."""
    ahead: Tensor
    """int64[N] number of interactions until the item: 1 is the next one."""
    columns: Mapping[str, Tensor]
    """The columns of `COLUMNS` of each interaction, float32[N]; NaN where the log has no value.
    `rating` is always there, the others if the log has them."""

    def keywords(self, users: Tensor) -> dict[str, Tensor]:
        """Return the keyword arguments of a reward function; `users` is int64[B], of the states."""
        pairs = {"prompts": users[self.states], "completions": self.items, "ahead": self.ahead}
        return pairs | dict(self.columns)

    def to(self, device: torch.device) -> "LoggedItems":
        """Return the same items on another device."""
        states, items, ahead = (to_device(part, device) for part in self[:3])
        columns = {name: to_device(values, device) for name, values in self.columns.items()}
        return LoggedItems(states, items, ahead, columns)


def future_items(
    states: UserStates,
    dataset: Dataset,
    horizon: int,
    event_weights: Mapping[str, float] | None = None,
) -> LoggedItems:
    """Return the items of the next `horizon` interactions of each state's user.

    Args:
        states: int64[B] users, and int64[B] numbers of their events before each state.
        dataset: only its training histories are read; no held-out item can leak in.
        horizon: number of next interactions.
        event_weights: a repeated item counts at its event of the lowest weight if that is negative
            (an item that is bought and returned counts as returned), else at that of the highest
            weight; at the first of equal ones. Without weights it counts at the first of all.
    """
    train, (users, ends) = dataset.train, states
    steps = (train.offsets[users] + ends)[:, None] + np.arange(horizon)
    in_history = steps < train.offsets[users + 1][:, None]
    rows, ahead = np.nonzero(in_history)
    positions = steps[in_history]
    if event_weights:
        events = _numbers(train.columns["event_type"])[positions]
        names = event_types(train)
        weights = np.array([event_weights.get(name, 0.0) for name in names] + [0.0])
        codes = np.where(np.isnan(events), len(names), events).astype(np.int64)
        sizes = weights[codes]
        order = np.lexsort((ahead, -np.abs(sizes), sizes >= 0))
        rows, positions, ahead = rows[order], positions[order], ahead[order]
    return _distinct(rows, positions, ahead + 1, dataset)


def add_rejected(logged: LoggedItems, dataset: Dataset, states: UserStates) -> LoggedItems:
    """Return logged items and the items that users reject later in the training period.

    The column `rejected` is 1 for the latter, whose `ahead` is 0, and 0 for the others. An item
    that the user also interacts with counts as not rejected. A rejection after the last training
    event is left out: it may lie in the validation or test period.

    Args:
        logged: the items of the states.
        dataset: with rejected items (`Dataset.negatives`).
        states: int64[B] users, and int64[B] numbers of their events before each state.
    """
    users, ends = states
    later = rejected_after(dataset, users, ends)
    width = max(1, dataset.n_items)
    keys = logged.states * width + logged.items
    new = ~torch.isin(later.states * width + later.items, keys)
    n_logged, n_new = len(keys), int(new.sum())
    merged = torch.cat([logged.states, later.states[new]])
    items = torch.cat([logged.items, later.items[new]])
    order = torch.argsort(merged * width + items)
    columns = {
        name: torch.cat([values, values.new_full((n_new,), torch.nan)])[order]
        for name, values in logged.columns.items()
    }
    columns["rejected"] = torch.cat([torch.zeros(n_logged), torch.ones(n_new)])[order]
    ahead = torch.cat([logged.ahead, logged.ahead.new_zeros(n_new)])[order]
    return LoggedItems(merged[order], items[order], ahead, columns)


def past_items(users: LongArray, dataset: Dataset) -> LoggedItems:
    """Return every training item of the user of each state, as if each were the next one."""
    train = dataset.train
    counts = train.lengths[users]
    states = np.repeat(np.arange(len(users)), counts)
    within = np.arange(len(states)) - np.repeat(np.cumsum(counts) - counts, counts)
    positions = train.offsets[users][states] + within
    return _distinct(states, positions, np.ones_like(positions), dataset)


def drop_seen(rewards: Rewards, seen: Seen) -> Rewards:
    """Drop the rewards of masked items, which the policy cannot show.

    Args:
        rewards: of the log.
        seen: the masked items of the same states.
    """
    if not len(seen.items):
        return rewards
    width = int(torch.cat([rewards.items, seen.items]).max()) + 1
    keys, masked_keys = (pairs.states * width + pairs.items for pairs in (rewards, seen))
    nearest = torch.searchsorted(masked_keys, keys).clamp(max=len(masked_keys) - 1)
    return rewards.where(masked_keys[nearest] != keys)


def normalized(rewards: Rewards, n_states: int) -> Rewards:
    """Return the rewards of each state divided by the sum of their sizes; `parts` stay.

    A state without rewards, or with rewards of 0 only, stays so.
    """
    sums = rewards.values.new_zeros(n_states)
    sums.index_add_(0, rewards.states, rewards.values.abs())
    tiny = torch.finfo(sums.dtype).tiny
    return rewards._replace(values=rewards.values / sums.clamp(min=tiny)[rewards.states])


class CombinedReward:
    """Several reward functions as one.

    Args:
        functions: see `recoach.policy.reward_funcs`.
        weights: one for each; 1 where there are none.
        aggregation: `sum_then_normalize` adds the rewards; `normalize_then_sum` (GDPO) first
            brings them to one scale: groups are normalised one by one; without groups, rewards of
            the log are scaled to mean 1 and rewards of items to standard deviation 1 over the
            catalogue.
        n_items: size of the catalogue.

    Raises:
        ConfigError: the number of weights differs, or a function does not take the keywords.
    """

    def __init__(
        self,
        functions: Sequence[RewardFunc],
        weights: Sequence[float] = (),
        aggregation: Aggregation = "sum_then_normalize",
        *,
        n_items: int = 0,
    ) -> None:
        if weights and len(weights) != len(functions):
            raise ConfigError(
                f"reward_weights has {len(weights)} numbers for {len(functions)} reward functions; "
                "give one for each, or none."
            )
        all_weights = list(weights) or [1.0] * len(functions)
        self.normalised = aggregation == "normalize_then_sum"
        by_scope: dict[Scope, list[tuple[RewardFunc, float]]] = {s: [] for s in get_args(Scope)}
        for function, weight in zip(functions, all_weights, strict=True):
            by_scope[scope_of(function)].append((function, weight))
            _check_signature(function)
        self._log, self.draw_functions = by_scope["log"], by_scope["draws"]
        order = [*self._log, *by_scope["items"], *by_scope["served"], *self.draw_functions]
        self.names = [name_of(function) for function, _ in order]
        self.weights = [weight for _, weight in order]
        self._n_items = n_items
        self.item_parts = self._parts_of(by_scope["items"])
        """float32[I] the reward of each item for every user, and its weight, for each function of
        items."""
        self.served = [(f, w) for f, w in by_scope["served"] if isinstance(f, ExposureReward)]
        """The functions of items that depend on the served lists, and their weights; their rewards
        may change after every evaluation."""
        self.adjust_items: Callable[[Tensor | None], Tensor] | None = None
        """Changes the rewards of items (None without any), as constraints do; it may return other
        numbers at every step."""

    @property
    def log_weight(self) -> float:
        """Sum of the absolute weights of the functions of the log; 1 where there are none."""
        return sum(abs(weight) for _, weight in self._log) or 1.0

    @property
    def item_rewards(self) -> Tensor | None:
        """float32[I] the current weighted sum of the rewards of items; None without any."""
        total = None
        if self.item_parts:
            weighted = (
                weight * ((v - v.mean()) / (v.std(correction=0) + 1e-6) if self.normalised else v)
                for v, weight in self.item_parts
            )
            total = functools.reduce(torch.add, weighted)
        for part, weight in self._parts_of(self.served):
            total = weight * part if total is None else total + weight * part
        return total if self.adjust_items is None else self.adjust_items(total)

    def _parts_of(
        self, functions: Sequence[tuple[RewardFunc, float]]
    ) -> list[tuple[Tensor, float]]:
        catalogue = torch.arange(self._n_items)
        arguments = {"prompts": catalogue[:0], "completions": catalogue}
        return [(call_reward(function, arguments), weight) for function, weight in functions]

    def logged_rewards(self, logged: LoggedItems, users: Tensor) -> Rewards:
        """Return the rewards of logged items; pairs of reward 0 are left out.

        Args:
            logged: the pairs that the functions of the log are called with.
            users: int64[B] the user of each state.
        """
        parts = [call_reward(function, logged.keywords(users)) for function, _ in self._log]
        total = torch.zeros(len(logged.items))
        for part, (_, weight) in zip(parts, self._log, strict=True):
            scale = distributed.data_mean(part[part != 0].abs()) if self.normalised else 0
            total += weight * (part / scale if scale else part)
        stacked = torch.stack(parts) if parts else total[:0].view(0, len(total))
        rewards = Rewards(logged.states, logged.items, total, stacked)
        return rewards.where((stacked != 0).any(dim=0))

    def total(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the weighted sum of the rewards of all functions, in the order of `names`."""
        weighted = (w * part for w, part in zip(self.weights, parts, strict=True))
        return functools.reduce(torch.add, weighted)


def call_reward(
    function: RewardFunc, arguments: dict[str, Tensor], *, lists: bool = False
) -> Tensor:
    """Return float32[N...] the rewards of a function; None and NaN become 0.

    Args:
        function: called with `arguments` as keywords.
        arguments: prompts, completions and the other columns.
        lists: whether the function may return one number for each row of completions.

    Raises:
        ConfigError: the function returned something else than numbers, another number of rewards
            than completions, or an infinite one.
    """
    answer = function(**_accepted(function, arguments))
    try:
        rewards = answer if isinstance(answer, Tensor) else np.asarray(answer, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the reward function {name_of(function)} returned {type(answer).__name__}, which is "
            f"not an array of numbers ({error}); return a number, or None, for each completion."
        ) from error
    rewards = torch.as_tensor(rewards, dtype=torch.float32).detach()
    shape = tuple(arguments["completions"].shape)
    if tuple(rewards.shape) not in ({shape, shape[:1]} if lists else {shape}):
        raise ConfigError(
            f"the reward function {name_of(function)} was called with completions of shape {shape} "
            f"and returned shape {tuple(rewards.shape)}; return one number for each."
        )
    if bool(rewards.isinf().any()):
        raise ConfigError(
            f"the reward function {name_of(function)} returned an infinite reward; bound it, or "
            "return None where there is none."
        )
    return rewards.nan_to_num(nan=0.0)


def _accepted(function: RewardFunc, arguments: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the arguments without optional columns that the function's signature does not name.

    Raises:
        ConfigError: the function needs a column that the log does not have.
    """
    try:
        parameters = inspect.signature(function, follow_wrapped=False).parameters
    except ValueError:  # without a signature, such as a compiled function
        return arguments
    for name in _OPTIONAL:
        parameter = parameters.get(name)
        if parameter and parameter.default is parameter.empty and name not in arguments:
            raise ConfigError(
                f"the reward function {name_of(function)} needs the column `{name}`, and the log "
                "has none; map it, or give the argument a default."
            )
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return arguments
    return {n: values for n, values in arguments.items() if n in parameters or n not in _OPTIONAL}


def _check_signature(function: RewardFunc) -> None:
    keywords = ["prompts", "completions"]
    keywords += ["ahead", "rating"] if scope_of(function) not in ("items", "served") else []
    try:
        signature = inspect.signature(function, follow_wrapped=False)
        columns = [name for name in _OPTIONAL if name in signature.parameters]
        signature.bind(**dict.fromkeys([*keywords, *columns]))
    except ValueError:  # without a signature, such as a compiled function
        return
    except TypeError as error:
        raise ConfigError(
            f"the reward function {name_of(function)} cannot be called with the keywords "
            f"{', '.join(keywords)}: {error}; let it take **columns."
        ) from error


def _distinct(
    states: np.ndarray, positions: np.ndarray, ahead: np.ndarray, dataset: Dataset
) -> LoggedItems:
    """Return the pairs at positions in `train.values`; of equal pairs, the nearest."""
    items = dataset.train.values[positions].astype(np.int64)
    # np.unique keeps the first of equal keys: the nearest position.
    keys, first = np.unique(states * max(1, dataset.n_items) + items, return_index=True)
    columns = {"rating": torch.full((len(first),), torch.nan)}
    for name in COLUMNS:
        if name in dataset.train.columns:
            values = _numbers(dataset.train.columns[name])[positions[first]]
            columns[name] = torch.from_numpy(values)
    return LoggedItems(
        torch.from_numpy(keys // max(1, dataset.n_items)),
        torch.from_numpy(items[first]),
        torch.from_numpy(ahead[first]),
        columns,
    )


def _numbers(values: pl.Series) -> np.ndarray:
    """Return float32[M], the values or the codes of event types; NaN for missing ones."""
    if isinstance(values.dtype, pl.Enum):
        values = values.to_physical()
    return values.cast(pl.Float32).fill_null(float("nan")).to_numpy()
