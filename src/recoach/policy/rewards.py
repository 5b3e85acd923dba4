"""Verifiable rewards: what a logged future says an action was worth."""

import functools
import inspect
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recoach import distributed
from recoach.data.batches import Batch, Seen
from recoach.data.split import Dataset
from recoach.errors import ConfigError
from recoach.policy.reward_funcs import RewardFunc, name_of, scope_of

Aggregation = Literal["sum_then_normalize", "normalize_then_sum"]


class Rewards(NamedTuple):
    """The rewarded items of each state; every other item is worth 0."""

    states: Tensor
    """int64[N] sorted."""
    items: Tensor
    """int64[N], no pair (state, item) twice."""
    values: Tensor
    """float32[N]."""
    parts: Tensor | None = None
    """float32[F, N], what each reward function pays, unweighted."""

    def to(self, device: torch.device) -> "Rewards":
        """Return the same rewards on another device."""
        parts = self.parts if self.parts is None else self.parts.to(device)
        states, items, values = (tensor.to(device) for tensor in self[:3])
        return Rewards(states, items, values, parts)

    def where(self, chosen: Tensor) -> "Rewards":
        """Return the pairs that bool[N] `chosen` keeps."""
        kept = chosen.nonzero().squeeze(1)  # once for all: a mask is counted anew by each
        parts = self.parts if self.parts is None else self.parts[:, kept]
        return Rewards(self.states[kept], self.items[kept], self.values[kept], parts)


class LoggedItems(NamedTuple):
    """What the log knows of states: items their users take, sorted by state, then item."""

    states: Tensor
    """int64[N]."""
    items: Tensor
    """int64[N], no pair twice."""
    ahead: Tensor
    """int64[N] interactions until the user takes it: 1 is the next one."""
    rating: Tensor
    """float32[N] what the user gave it; NaN where the log does not say."""


def future_items(batch: Batch, dataset: Dataset, horizon: int) -> LoggedItems:
    """Return the items that each state's user takes within the next `horizon` interactions.

    An item taken more than once counts at its first place.

    Args:
        batch: states with the places of their next items.
        dataset: its training histories are what those places point into; nothing held out can
            leak in.
        horizon: number of coming interactions looked at.
    """
    train, users = dataset.train, batch.queries.state_users.cpu().numpy()
    steps = batch.positions[:, None] + np.arange(horizon)
    inside = steps < train.offsets[users + 1][:, None]
    states, ahead = np.nonzero(inside)
    return _distinct(states, steps[inside], ahead + 1, dataset)


def past_items(batch: Batch, dataset: Dataset) -> LoggedItems:
    """Return every training item of the state's user, as if each were the next one."""
    train, users = dataset.train, batch.queries.state_users.cpu().numpy()
    counts = train.lengths[users]
    states = np.repeat(np.arange(len(users)), counts)
    within = np.arange(len(states)) - np.repeat(np.cumsum(counts) - counts, counts)
    places = train.offsets[users][states] + within
    return _distinct(states, places, np.ones_like(places), dataset)


def drop_seen(rewards: Rewards, seen: Seen) -> Rewards:
    """Drop rewards that no shown item can earn, because the policy masks them.

    Args:
        rewards: as drawn from the log.
        seen: the masked items of the same states.
    """
    if not len(seen.items):
        return rewards
    width = int(torch.cat([rewards.items, seen.items]).max()) + 1
    mine, theirs = (pairs.states * width + pairs.items for pairs in (rewards, seen))
    nearest = torch.searchsorted(theirs, mine).clamp(max=len(theirs) - 1)
    return rewards.where(theirs[nearest] != mine)


class CombinedReward:
    """Several reward functions as one.

    Args:
        functions: see `recoach.policy.reward_funcs`.
        weights: one for each; 1 where there are none.
        aggregation: `sum_then_normalize` adds what they pay; `normalize_then_sum` (GDPO) first
            makes their sizes alike: groups are normalised one by one; without groups, what the
            log pays is scaled to mean 1 and what items pay to deviation 1 over the catalogue.
        n_items: size of the catalogue.

    Raises:
        ConfigError: weights that do not fit, or a function that cannot be called as they are.
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
                f"reward_weights has {len(weights)} numbers for {len(functions)} reward functions."
            )
        own = list(weights) or [1.0] * len(functions)
        self.normalised = aggregation == "normalize_then_sum"
        by_scope: dict[str, list[tuple[RewardFunc, float]]] = {"log": [], "items": [], "draws": []}
        for function, weight in zip(functions, own, strict=True):
            by_scope[scope_of(function)].append((function, weight))
            _check_signature(function)
        self._log, self.on_draws = by_scope["log"], by_scope["draws"]
        order = [*self._log, *by_scope["items"], *self.on_draws]
        self.names = [name_of(function) for function, _ in order]
        self.weights = [weight for _, weight in order]
        catalogue = torch.arange(n_items)
        self.item_parts = [
            (call_reward(function, {"prompts": catalogue[:0], "completions": catalogue}), weight)
            for function, weight in by_scope["items"]
        ]
        """float32[I] what each item pays whoever is shown it, and its weight."""

    @property
    def log_weight(self) -> float:
        """Size of the weights of what the log pays, together; 1 where it pays nothing."""
        return sum(abs(weight) for _, weight in self._log) or 1.0

    @property
    def of_items(self) -> Tensor | None:
        """float32[I] the weighted sum of what items pay, if they pay anything."""
        if not self.item_parts:
            return None
        weighted = (
            weight * ((v - v.mean()) / (v.std(correction=0) + 1e-6) if self.normalised else v)
            for v, weight in self.item_parts
        )
        return functools.reduce(torch.add, weighted)

    def of_log(self, logged: LoggedItems, users: Tensor) -> Rewards:
        """Return what the log pays: pairs that earn nothing are left out.

        Args:
            logged: the pairs that are asked about.
            users: int64[B] the user of each state.
        """
        parts = [call_reward(function, columns(logged, users)) for function, _ in self._log]
        total = torch.zeros(len(logged.items))
        for part, (_, weight) in zip(parts, self._log, strict=True):
            typical = distributed.data_mean(part[part != 0]) if self.normalised else 0
            total += weight * (part / typical if typical else part)
        stacked = torch.stack(parts) if parts else total[:0].view(0, len(total))
        found = Rewards(logged.states, logged.items, total, stacked)
        return found.where((stacked != 0).any(dim=0))

    def total(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the weighted sum of what each function pays."""
        weighted = (w * part for w, part in zip(self.weights, parts, strict=True))
        return functools.reduce(torch.add, weighted)


def columns(logged: LoggedItems, users: Tensor) -> dict[str, Tensor]:
    """Return what a reward function is given for pairs of the log."""
    return {
        "prompts": users[logged.states],
        "completions": logged.items,
        "ahead": logged.ahead,
        "rating": logged.rating,
    }


def call_reward(function: RewardFunc, given: dict[str, Tensor], *, lists: bool = False) -> Tensor:
    """Return float32[N...] what a function pays; None and NaN pay nothing.

    Args:
        function: called with `given` as keywords.
        given: prompts, completions and the columns there are.
        lists: whether a row of completions may be paid as a whole.

    Raises:
        ConfigError: it returned another number of rewards than it was asked for, or an infinite
            one.
    """
    answer = function(**given)
    found = answer if isinstance(answer, Tensor) else np.asarray(answer, dtype=np.float32)
    found = torch.as_tensor(found, dtype=torch.float32).detach()
    asked = tuple(given["completions"].shape)
    if tuple(found.shape) not in ({asked, asked[:1]} if lists else {asked}):
        raise ConfigError(
            f"the reward function {name_of(function)} was asked about completions of shape "
            f"{asked} and returned shape {tuple(found.shape)}; return one number for each."
        )
    if bool(found.isinf().any()):
        raise ConfigError(
            f"the reward function {name_of(function)} returned an infinite reward; bound it, or "
            "return None where there is none."
        )
    return found.nan_to_num(nan=0.0)


def _check_signature(function: RewardFunc) -> None:
    given = ["prompts", "completions"]
    given += ["ahead", "rating"] if scope_of(function) != "items" else []
    try:
        inspect.signature(function, follow_wrapped=False).bind(**dict.fromkeys(given))
    except ValueError:  # one that does not tell, such as a compiled function
        return
    except TypeError as error:
        raise ConfigError(
            f"the reward function {name_of(function)} cannot be called with the keywords "
            f"{', '.join(given)}: {error}; let it take **columns."
        ) from error


def _distinct(
    states: np.ndarray, places: np.ndarray, ahead: np.ndarray, dataset: Dataset
) -> LoggedItems:
    """Number pairs by their place in `train.values`, the nearest of equal ones."""
    items = dataset.train.values[places].astype(np.int64)
    # np.unique keeps the first of equal keys: the nearest place.
    keys, first = np.unique(states * max(1, dataset.n_items) + items, return_index=True)
    ratings = dataset.ratings
    rating = np.full(len(first), np.nan) if ratings is None else ratings[places[first]]
    return LoggedItems(
        torch.from_numpy(keys // max(1, dataset.n_items)),
        torch.from_numpy(items[first]),
        torch.from_numpy(ahead[first]),
        torch.from_numpy(rating.astype(np.float32)),
    )
