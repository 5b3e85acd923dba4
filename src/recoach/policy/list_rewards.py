"""Rewards of whole lists, for estimator `slate`.

Such a function is called with `completions` of shape int64[N, L], lists, and `prompts` int64[N],
and returns a number for each list or, marked with `@marginal_gains`, what each rank adds to it.
"""

import torch
from torch import Tensor
from torch.nn import functional

from recoach.data.dataset import Dataset
from recoach.errors import ConfigError
from recoach.models.base import Recommender
from recoach.policy.reward_funcs import Function, RewardFunc
from recoach.rerank.categories import SMOOTHING
from recoach.rerank.features import ItemFeatures


def marginal_gains(function: Function) -> Function:
    """Mark a reward function that returns float[N, L], what each rank adds to the list's reward.

    The values of a list sum to its reward, and each depends on the items up to its rank only. A
    rank is then credited with what it and the later ranks add, not with what was there before it:
    the gradient has the same expectation and less variance. The values are not discounted by rank.
    """
    function.has_marginal_gains = True  # type: ignore[attr-defined]
    return function


def has_marginal_gains(function: RewardFunc) -> bool:
    """Return whether a function is marked with `@marginal_gains`."""
    return bool(getattr(function, "has_marginal_gains", False))


def list_reward(name: str, dataset: Dataset, base: Recommender) -> RewardFunc:
    """Return `diversity` or `calibration` for the categories of the items table.

    Without categories in the table diversity is that of the base's item vectors, and calibration
    that of clusters of these.

    Args:
        name: of the reward.
        dataset: its items table, and its training histories.
        base: gives the vectors.

    Raises:
        ConfigError: there are neither categories nor vectors.
    """
    features = ItemFeatures(dataset, base)
    if name == "diversity":
        return diversity(features.vectors)
    return calibration(features.shares, dataset)


def diversity(items: Tensor) -> RewardFunc:
    """Return a reward of 1 - the mean cosine of the pairs within a list.

    Args:
        items: float[I, D] item vectors that define the similarity, such as those of the base.

    The reward raises ConfigError for single items, and for an item without a row.
    """
    units = functional.normalize(items.detach().float().cpu(), dim=1)

    @marginal_gains
    def diversity(prompts: Tensor, completions: Tensor, **_: Tensor) -> Tensor:
        lists = _lists(prompts, completions, "diversity", len(units))
        vectors, size = units[lists], lists.shape[1]
        earlier = vectors.cumsum(dim=1) - vectors
        n_pairs = max(1, size * (size - 1) // 2)
        return 1 / size - (vectors * earlier).sum(dim=2) / n_pairs

    return diversity


def calibration(categories: Tensor, dataset: Dataset) -> RewardFunc:
    """Return minus the divergence of a list's categories from those of the history.

    KL(history || list) with the list smoothed by a hundredth of the history (Steck 2018). A rank
    adds the decrease of the divergence when its item enters the list, whose open places hold none.

    Args:
        categories: int64[I] the category of each item, 0..C-1, or float[I, C] its share of each. An
            item without categories fills a place with none, where the metric leaves it out.
        dataset: its training histories give the categories of a user.

    Raises:
        ConfigError: the number of categories is not that of the items; when called, the
            completions are no lists.
    """
    if len(categories) != dataset.n_items:
        raise ConfigError(
            f"reward 'calibration' has categories of {len(categories)} items, and the catalogue "
            f"holds {dataset.n_items}; give one for each item, in the order of the catalogue."
        )
    shares = categories if categories.ndim == 2 else functional.one_hot(categories)
    shares = shares.float().cpu()
    users = torch.repeat_interleave(
        torch.arange(dataset.n_users), torch.from_numpy(dataset.train.lengths)
    )
    taken = shares[torch.from_numpy(dataset.train.values).long()]
    sums = torch.zeros(dataset.n_users, shares.shape[1]).index_add_(0, users, taken)
    profiles = sums / sums.sum(dim=1, keepdim=True).clamp(min=1e-12)

    @marginal_gains
    def calibration(prompts: Tensor, completions: Tensor, **_: Tensor) -> Tensor:
        lists = _lists(prompts, completions, "calibration", len(shares))
        p = profiles[prompts.cpu()][:, None]
        filled = shares[lists].cumsum(dim=1) / lists.shape[1]
        q = functional.pad((1 - SMOOTHING) * filled, (0, 0, 1, 0)) + SMOOTHING * p
        divergence = torch.where(p > 0, p * (p / q.clamp(min=1e-12)).log(), 0.0).sum(dim=2)
        gains = -divergence.diff(dim=1)
        gains[:, 0] -= divergence[:, 0]  # the empty list
        return gains

    return calibration


def _lists(prompts: Tensor, completions: Tensor, name: str, n_items: int) -> Tensor:
    """Return int64[N, L], lists of items that are all below `n_items`, on the CPU."""
    if (prompts.ndim, completions.ndim) != (1, 2):
        raise ConfigError(f"reward {name!r} rewards lists; use it with estimator 'slate'.")
    if completions.numel() and int(completions.max()) >= n_items:
        raise ConfigError(
            f"reward {name!r} has rows for {n_items} items and was called with others; give it a "
            "row for each item of the catalogue."
        )
    return completions.cpu()
