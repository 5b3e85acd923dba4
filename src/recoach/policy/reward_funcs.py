"""Reward functions with TRL's signature, and those that are ready made.

`reward(prompts, completions, **columns)` is called with keywords and returns a number, or None,
for each completion. `prompts` is int64[N], the users, and `completions` int64[N], the items, both
numbered as in the dataset (both int64[N, G] where groups are drawn; int64[N, L], lists, beside
int64[N] for slates). Columns of the completions' shape:
`ahead`, after how many interactions the user takes the item (1 is the next; 0 where not within the
horizon), and `rating`, what the user then gave it (NaN where unknown).

Where a function may pay decides who can use it. `@of_log` marks one that pays nothing where the log
is silent, `@of_items` one that looks at the item alone: these every estimator takes. One without a
mark is asked about all that is drawn, by the estimators that draw.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal, TypeVar, get_args

import torch
from torch import Tensor
from torch.nn import functional

from recoach.data.split import Dataset
from recoach.errors import ConfigError

RewardName = Literal["next", "future", "train_set", "rated", "cross_fitted", "novelty"]
DISCOUNTED: Final = frozenset({"future", "rated", "cross_fitted"})
"""Those that pay for the coming `horizon` items, with `discount`."""
Scope = Literal["log", "items", "draws"]
RewardFunc = Callable[..., Any]
Function = TypeVar("Function", bound=RewardFunc)


def log_reward(function: Function) -> Function:
    """Mark a reward function that pays nothing for what the log does not hold."""
    function.scope = "log"  # type: ignore[attr-defined]
    return function


def item_reward(function: Function) -> Function:
    """Mark a reward function that looks at `completions` alone; it is called once, for all."""
    function.scope = "items"  # type: ignore[attr-defined]
    return function


def scope_of(function: RewardFunc) -> Scope:
    """Return where a function may pay."""
    inner = function.func if isinstance(function, partial) else function
    scope: Scope = getattr(function, "scope", getattr(inner, "scope", "draws"))
    return scope


def name_of(function: RewardFunc) -> str:
    """Return what logs call a function."""
    inner = function.func if isinstance(function, partial) else function
    return str(getattr(inner, "__name__", type(inner).__name__))


@log_reward
def next_item(prompts: Tensor, completions: Tensor, ahead: Tensor, **_: Tensor) -> Tensor:
    """Pay 1 for the item the user takes next (the paper's reward)."""
    del prompts, completions
    return (ahead == 1).float()


@log_reward
def train_set(prompts: Tensor, completions: Tensor, ahead: Tensor, **_: Tensor) -> Tensor:
    """Pay 1 for every training item of the user (the paper's reading for graphs)."""
    del prompts, completions
    return (ahead > 0).float()


def future(discount: float = 0.8) -> RewardFunc:
    """Return a reward of discount^(k-1) for an item the user takes k interactions later."""

    @log_reward
    def future(prompts: Tensor, completions: Tensor, ahead: Tensor, **_: Tensor) -> Tensor:
        del prompts, completions
        return discount ** (ahead - 1).double() * (ahead > 0)

    return future


def rated(ratings: Tensor, discount: float = 0.8) -> RewardFunc:
    """Return the `future` reward times how the item's rating compares with the best.

    Args:
        ratings: float32[M] all that were given; the worst of them pays 0, the best 1. An item
            without a rating pays as one of the mean rating.
        discount: see `future`.
    """
    known = ratings[~ratings.isnan()]
    if not len(known):
        raise ConfigError("reward 'rated' needs ratings, and all are missing; use 'future'.")
    low, high = float(known.min()), float(known.max())
    usual = float(known.mean())
    pay = future(discount)

    @log_reward
    def rated(prompts: Tensor, completions: Tensor, ahead: Tensor, rating: Tensor) -> Tensor:
        grade = (rating.nan_to_num(nan=usual) - low) / max(high - low, 1e-6)
        worth: Tensor = pay(prompts=prompts, completions=completions, ahead=ahead)
        return worth * (grade if high > low else 1.0)

    return rated


def novelty(dataset: Dataset) -> RewardFunc:
    """Return a reward for what few users know, whoever is shown it.

    It is the item's self-information, -log2 of the share of training interactions that are its
    own, over that of an item taken once: 1 for the rarest, 0 for one that is all there is.
    """
    counts = torch.bincount(torch.from_numpy(dataset.train.values), minlength=dataset.n_items)
    total = max(2, int(counts.sum()))
    worth = 1 - counts.clamp(min=1).float().log() / torch.tensor(float(total)).log()

    @item_reward
    def novelty(prompts: Tensor, completions: Tensor, **_: Tensor) -> Tensor:
        del prompts
        return worth[completions]

    return novelty


def diversity(items: Tensor) -> RewardFunc:
    """Return a reward of 1 - the mean cosine of the pairs within a list, for slates.

    Args:
        items: float[I, D] vectors by which items are alike, such as those of the base.

    The reward raises ConfigError where it is asked about single items, or about one without a row.
    """
    units = functional.normalize(items.detach().float().cpu(), dim=1)

    def diversity(prompts: Tensor, completions: Tensor, **_: Tensor) -> Tensor:
        lists = _lists(prompts, completions, "diversity", len(units))
        vectors, size = units[lists], lists.shape[1]
        pairs = vectors.sum(dim=1).square().sum(dim=1) - size
        return 1 - pairs / max(1, size * (size - 1))

    return diversity


def calibration(categories: Tensor, dataset: Dataset) -> RewardFunc:
    """Return minus the divergence of a list's categories from the user's own, for slates.

    KL(history || list) with the list smoothed by a hundredth of the history (Steck 2018).

    Args:
        categories: int64[I] the category of each item, 0..C-1.
        dataset: its training histories say what a user likes.

    Raises:
        ConfigError: another number of categories than items; when asked, completions that are no
            lists.
    """
    if len(categories) != dataset.n_items:
        raise ConfigError(
            f"reward 'calibration' has categories of {len(categories)} items, and the catalogue "
            f"holds {dataset.n_items}; give one for each, in its order."
        )
    n_categories = int(categories.max()) + 1
    users = torch.repeat_interleave(
        torch.arange(dataset.n_users), torch.from_numpy(dataset.train.lengths)
    )
    own = categories[torch.from_numpy(dataset.train.values).long()]
    counts = torch.zeros(dataset.n_users, n_categories)
    counts.index_put_((users, own), torch.ones(len(own)), accumulate=True)
    liked = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)

    def calibration(prompts: Tensor, completions: Tensor, **_: Tensor) -> Tensor:
        lists = _lists(prompts, completions, "calibration", len(categories))
        p = liked[prompts.cpu()]
        shown = functional.one_hot(categories[lists], n_categories).float().mean(dim=1)
        q = 0.99 * shown + 0.01 * p
        return -torch.where(p > 0, p * (p / q.clamp(min=1e-12)).log(), 0.0).sum(dim=1)

    return calibration


def _lists(prompts: Tensor, completions: Tensor, name: str, n_items: int) -> Tensor:
    """Return int64[N, L], lists of items that a reward has a row for, on the CPU."""
    if (prompts.ndim, completions.ndim) != (1, 2):
        raise ConfigError(f"reward {name!r} is paid for lists; use it with estimator 'slate'.")
    if completions.numel() and int(completions.max()) >= n_items:
        raise ConfigError(
            f"reward {name!r} knows {n_items} items and is asked about more; give it a row for "
            "each item of the catalogue."
        )
    return completions.cpu()


def by_name(name: str, dataset: Dataset, discount: float) -> RewardFunc:
    """Return a ready-made reward function.

    Raises:
        ConfigError: no function of this name; `rated` for a log without ratings; `cross_fitted`,
            for which bases are trained.
    """
    if name not in get_args(RewardName):
        known = ", ".join(get_args(RewardName))
        raise ConfigError(f"there is no ready-made reward {name!r}; there are {known}.")
    if name == "cross_fitted":
        raise ConfigError(
            "reward 'cross_fitted' is measured by bases that `recoach run` trains; in Python give "
            "recoach.training.crossfit.CrossFitted and what trains them."
        )
    if name == "novelty":
        return novelty(dataset)
    if name == "rated":
        if dataset.ratings is None:
            raise ConfigError(
                "reward 'rated' needs ratings, and the data have none; prepare them from a log "
                "with a rating column, or use 'future'."
            )
        return rated(torch.from_numpy(dataset.ratings), discount)
    if name == "future":
        return future(discount)
    return {"next": next_item, "train_set": train_set}[name]
