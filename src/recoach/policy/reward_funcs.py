"""Reward functions with TRL's signature, and the ready-made ones.

`reward(prompts, completions, **columns)` is called with keywords and returns a number, or None,
for each completion. `prompts` is int64[N], the users, and `completions` int64[N], the items, both
numbered as in the dataset (both int64[N, G] where groups are drawn; for slates `completions` is
int64[N, L], lists, and `prompts` int64[N]). The columns have the shape of the completions: `ahead`
is the number of interactions until the user interacts with the item (1 is the next; 0 if not within
the horizon), and `rating` is the user's rating (NaN where unknown). If the log has them there are
also `value`, and `event_type`, the number of the type in the order of the log's types; with
`rejected` among the rewards `rejected`, 1 for items that the user rejects; with `return` among them
`returns`, the return of the event (`recoach.data.episodes`).

Which items a function may reward decides which algorithms can use it. `@log_reward` marks a
function that rewards nothing outside the log, `@item_reward` one that depends on the item alone:
every estimator of GRPO accepts both. A function without a mark is called with all drawn items, by
the estimators that draw. The reward `exposure` depends on what the model in training serves
(`recoach.policy.exposure_reward`).
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any, Final, Literal, TypeVar, get_args

import torch
from torch import Tensor

from recoach.data.dataset import Dataset
from recoach.data.episodes import weights_of_types
from recoach.errors import ConfigError
from recoach.policy.exposure_reward import ExposureReward

RewardName = Literal[
    "next",
    "return",
    "future",
    "train_set",
    "rated",
    "value",
    "events",
    "rejected",
    "cross_fitted",
    "serendipity",
    "novelty",
    "exposure",
    "diversity",
    "calibration",
]
LIST_REWARDS: Final = frozenset({"diversity", "calibration"})
"""Rewards of whole lists (`recoach.policy.list_rewards`)."""
ITEM_REWARDS: Final = frozenset({"novelty", "exposure"})
"""Rewards of items, the same for every user."""
DISCOUNTED: Final = frozenset({"future", "rated", "value", "events", "cross_fitted", "serendipity"})
"""Rewards of the next `horizon` items, with `discount`."""
Scope = Literal["log", "items", "served", "draws"]
RewardFunc = Callable[..., Any]
Function = TypeVar("Function", bound=RewardFunc)


def log_reward(function: Function) -> Function:
    """Mark a reward function that rewards nothing outside the log."""
    function.scope = "log"  # type: ignore[attr-defined]
    return function


def item_reward(function: Function) -> Function:
    """Mark a reward function that depends on `completions` alone; it is called once, for all."""
    function.scope = "items"  # type: ignore[attr-defined]
    return function


def scope_of(function: RewardFunc) -> Scope:
    """Return which items a function may reward.

    Those of the log; any item, always alike (`items`) or by the lists that are served; or any draw.
    """
    inner = function.func if isinstance(function, partial) else function
    scope: Scope = getattr(function, "scope", getattr(inner, "scope", "draws"))
    return scope


def name_of(function: RewardFunc) -> str:
    """Return the name of a function in logs and messages."""
    inner = function.func if isinstance(function, partial) else function
    return str(getattr(inner, "__name__", type(inner).__name__))


@log_reward
def next_item(prompts: Tensor, completions: Tensor, ahead: Tensor, **_: Tensor) -> Tensor:
    """Reward the user's next item with 1 (the paper's reward)."""
    del prompts, completions
    return (ahead == 1).float()


@log_reward
def return_of_action(
    prompts: Tensor, completions: Tensor, ahead: Tensor, returns: Tensor, **_: Tensor
) -> Tensor:
    """Reward the user's next item with its return: its reward and the discounted later ones."""
    del prompts, completions
    return torch.where(ahead == 1, returns, 0.0)


@log_reward
def train_set(prompts: Tensor, completions: Tensor, ahead: Tensor, **_: Tensor) -> Tensor:
    """Reward every training item of the user with 1 (the paper's reward for graph models)."""
    del prompts, completions
    return (ahead > 0).float()


def future(discount: float = 0.8) -> RewardFunc:
    """Return a reward of discount^(k-1) for the item k interactions later."""

    @log_reward
    def future(prompts: Tensor, completions: Tensor, ahead: Tensor, **_: Tensor) -> Tensor:
        del prompts, completions
        return discount ** (ahead - 1).double() * (ahead > 0)

    return future


def rated(ratings: Tensor, discount: float = 0.8) -> RewardFunc:
    """Return the `future` reward times the rating, scaled to 0..1.

    Args:
        ratings: float32[M] all ratings of the log; the lowest becomes 0, the highest 1. A missing
            rating counts as the mean.
        discount: see `future`.

    Raises:
        ConfigError: all ratings are missing.
    """
    present = ratings[~ratings.isnan()]
    if not len(present):
        raise ConfigError("reward 'rated' needs ratings, and all are missing; use 'future'.")
    low, high = float(present.min()), float(present.max())
    mean = float(present.mean())
    future_reward = future(discount)

    @log_reward
    def rated(prompts: Tensor, completions: Tensor, ahead: Tensor, rating: Tensor) -> Tensor:
        grade = (rating.nan_to_num(nan=mean) - low) / max(high - low, 1e-6)
        reward: Tensor = future_reward(prompts=prompts, completions=completions, ahead=ahead)
        return reward * (grade if high > low else 1.0)

    return rated


def value(values: Tensor, discount: float = 0.8) -> RewardFunc:
    """Return the `future` reward times the value of the event, such as its price or revenue.

    Args:
        values: float32[M] all values of the log, which are divided by their mean. An event without
            a value is worth 0.
        discount: see `future`.

    Raises:
        ConfigError: a value is negative, or none is above 0.
    """
    present = values[~values.isnan()]
    if bool((present < 0).any()) or not bool((present > 0).any()):
        raise ConfigError(
            "reward 'value' needs values of at least 0, some of them above 0; filter or map the "
            "column `value` of the log, or use 'future'."
        )
    mean = float(present.double().mean())
    future_reward = future(discount)

    @log_reward
    def value(
        prompts: Tensor, completions: Tensor, ahead: Tensor, value: Tensor, **_: Tensor
    ) -> Tensor:
        reward: Tensor = future_reward(prompts=prompts, completions=completions, ahead=ahead)
        return reward * value.nan_to_num(nan=0.0) / mean

    return value


def events(weights: Sequence[float], discount: float = 0.8) -> RewardFunc:
    """Return the `future` reward times the weight of the event's type.

    Args:
        weights: of each event type of the log, in their order; an event without a type is worth 0.
        discount: see `future`.
    """
    by_type = torch.tensor([*weights, 0.0], dtype=torch.float64)
    future_reward = future(discount)

    @log_reward
    def events(
        prompts: Tensor, completions: Tensor, ahead: Tensor, event_type: Tensor, **_: Tensor
    ) -> Tensor:
        codes = event_type.nan_to_num(nan=float(len(weights))).long()
        reward: Tensor = future_reward(prompts=prompts, completions=completions, ahead=ahead)
        return reward * by_type[codes]

    return events


@log_reward
def rejected(
    prompts: Tensor, completions: Tensor, ahead: Tensor, rejected: Tensor, **_: Tensor
) -> Tensor:
    """Reward items that the user rejects (dislike, skip, return) later in train with -1."""
    del prompts, completions, ahead
    return -rejected.nan_to_num(nan=0.0)


def serendipity(dataset: Dataset, discount: float = 0.8, k: int = 10) -> RewardFunc:
    """Return the `future` reward without the k most popular items, which anybody would be shown.

    The metric `serendipity` counts the items of a list that the user takes and that the list of
    the most popular items does not have. That list does not depend on the one that is judged, so
    the metric is a sum over items: a reward of the log has the same optimum as a reward of lists,
    and every estimator takes it without drawing lists.

    Args:
        dataset: its training interactions give the popularity; equal items are in the order of the
            catalogue.
        discount: see `future`.
        k: length of the list of popular items; all items are in it where there are no more.

    Departure from the metric: the list is the same for all users, also where items that a user has
    seen are not shown.

    Source: Ge, Delgado-Battenfeld & Jannach 2010, with later items as the useful ones.
    """
    counts = torch.bincount(torch.from_numpy(dataset.train.values), minlength=dataset.n_items)
    is_popular = torch.zeros(dataset.n_items, dtype=torch.bool)
    is_popular[counts.argsort(descending=True, stable=True)[:k]] = True
    future_reward = future(discount)

    @log_reward
    def serendipity(prompts: Tensor, completions: Tensor, ahead: Tensor, **_: Tensor) -> Tensor:
        reward: Tensor = future_reward(prompts=prompts, completions=completions, ahead=ahead)
        return reward * ~is_popular[completions]

    return serendipity


def novelty(dataset: Dataset) -> RewardFunc:
    """Return a reward for items that few users have interacted with, the same for every user.

    It is the item's self-information, -log2 of its part of the training interactions, over that of
    an item with one interaction: 1 for the rarest item, 0 for one with all interactions.
    """
    counts = torch.bincount(torch.from_numpy(dataset.train.values), minlength=dataset.n_items)
    total = max(2, int(counts.sum()))
    values = 1 - counts.clamp(min=1).float().log() / torch.tensor(float(total)).log()

    @item_reward
    def novelty(prompts: Tensor, completions: Tensor, **_: Tensor) -> Tensor:
        del prompts
        return values[completions]

    return novelty


def by_name(
    name: str,
    dataset: Dataset,
    discount: float,
    event_weights: Mapping[str, float] | None = None,
    exposure_column: str | None = None,
) -> RewardFunc:
    """Return a ready-made reward function.

    Args:
        name: one of `RewardName`.
        dataset: gives the columns of the log.
        discount: of later items.
        event_weights: weight of each event type, for `events`.
        exposure_column: of the items table, for `exposure`.

    Raises:
        ConfigError: there is no function of this name, or the data lack its column;
            `cross_fitted`, which needs base models.
    """
    if name not in get_args(RewardName):
        names = ", ".join(get_args(RewardName))
        raise ConfigError(f"there is no ready-made reward {name!r}; there are {names}.")
    if name in _FROM_LOG:
        return _FROM_LOG[name](dataset, discount, event_weights or {})
    if name == "novelty":
        return novelty(dataset)
    if name == "exposure":
        return ExposureReward(dataset, exposure_column)
    if name == "future":
        return future(discount)
    simple: dict[str, RewardFunc] = {
        "next": next_item,
        "return": return_of_action,
        "train_set": train_set,
    }
    return simple[name]


def _rated(dataset: Dataset, discount: float, _: Mapping[str, float]) -> RewardFunc:
    if dataset.ratings is None:
        raise ConfigError(
            "reward 'rated' needs ratings, and the data have none; prepare them from a log "
            "with a rating column, or use 'future'."
        )
    return rated(torch.tensor(dataset.ratings), discount)


def _value(dataset: Dataset, discount: float, _: Mapping[str, float]) -> RewardFunc:
    if "value" not in dataset.train.columns:
        raise ConfigError(
            "reward 'value' needs the column `value` (a price, a revenue, a quantity), and the "
            "data have none; map it with --column value=NAME, or use 'future'."
        )
    return value(torch.tensor(dataset.train.columns["value"].to_numpy()), discount)


def _events(dataset: Dataset, discount: float, weights: Mapping[str, float]) -> RewardFunc:
    return events(weights_of_types(dataset.train, weights, "reward 'events'"), discount)


def _rejected(dataset: Dataset, _: float, __: Mapping[str, float]) -> RewardFunc:
    if dataset.negatives is None:
        raise ConfigError(
            "reward 'rejected' needs rejected items, and the data have none; map their column "
            "with --column negative=NAME, or leave the reward out."
        )
    return rejected


def _of_lists(*_: object) -> RewardFunc:
    raise ConfigError(
        "rewards 'diversity' and 'calibration' need the item vectors or categories of a trainer; "
        "elsewhere use the functions of recoach.policy.list_rewards."
    )


def _cross_fitted(*_: object) -> RewardFunc:
    raise ConfigError(
        "reward 'cross_fitted' needs base models, which `recoach run` trains; in Python pass "
        "recoach.training.crossfit.CrossFitted with a function that trains them."
    )


_FROM_LOG: Final[dict[str, Callable[[Dataset, float, Mapping[str, float]], RewardFunc]]] = {
    "rated": _rated,
    "value": _value,
    "events": _events,
    "rejected": _rejected,
    "serendipity": lambda dataset, discount, _: serendipity(dataset, discount),
    "cross_fitted": _cross_fitted,
    "diversity": _of_lists,
    "calibration": _of_lists,
}
"""Rewards that need more than the order of the log: (dataset, discount, event weights) -> reward.
"""


_RENAMED: Final = {
    "of_log": "reward_funcs.log_reward",
    "of_items": "reward_funcs.item_reward",
    "diversity": "list_rewards.diversity",
    "calibration": "list_rewards.calibration",
}
"""Names of earlier versions."""


def __getattr__(name: str) -> object:
    """Return a function by its former name, with a DeprecationWarning."""
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"{name} is now recoach.policy.{_RENAMED[name]}; the old name will be removed.",
        DeprecationWarning,
        stacklevel=2,
    )
    module, _, function = _RENAMED[name].partition(".")
    return getattr(import_module(f"recoach.policy.{module}"), function)
