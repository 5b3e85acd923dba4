"""Re-rankers that add a number to the score of each item: popularity, costs, values."""

from abc import abstractmethod

import torch
from torch import Tensor

from recoach.rerank.base import Reranker
from recoach.rerank.candidates import Candidates

_LEAST_VALUE = 1e-6
"""A value in units of the mean value that stands for 0, whose logarithm is infinite."""


class OffsetReranker(Reranker):
    """Orders candidates by score + offset of the item, which is the same for all users.

    The scores are the model's own, not scaled: with log-probabilities as scores and a reward r of
    items, score + λ r is the optimum of KL-regularised reinforcement learning, p · exp(λ r).
    """

    @abstractmethod
    def offsets(self) -> Tensor:
        """Return float[I], what is added to the scores."""

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """See `Reranker.select`."""
        return order_with_offsets(candidates, self.offsets(), k)


class _Factor(OffsetReranker):
    """The knob is the factor of a feature of the items."""

    @abstractmethod
    def _features(self) -> Tensor:
        """Return float[I], what the factor multiplies."""

    def offsets(self) -> Tensor:
        """Return the feature times the knob."""
        return self.config.knob * self._features()

    def unit(self, candidates: Candidates, k: int) -> float:
        """Return the spread of scores over that of the feature, within states, averaged."""
        del k
        is_item = candidates.is_item
        feature = self._features()[candidates.item_index]
        spreads = [_spread(values, is_item) for values in (candidates.scores, feature)]
        return spreads[0] / spreads[1] if spreads[1] > 0 else 1.0


class Popularity(_Factor):
    """Popularity adjustment: s - λ log(number of training interactions + 1); λ is the knob.

    Source: logit adjustment (Menon et al. 2021) when serving, with the popularity of items as the
    prior of classes.
    """

    optimum = (
        "Novelty is a sum over items: an offset of the scores by log popularity is its optimum, "
        "and fine-tuning can only store it in the weights."
    )

    def _features(self) -> Tensor:
        return -torch.log1p(self.features.popularity)


class Cost(_Factor):
    """Cost of items: s - λ c_i with a column c of the items table; λ is the knob."""

    optimum = (
        "A cost per item is a sum over items: s - λ cost is its optimum, and fine-tuning can only "
        "store it in the weights."
    )

    def _features(self) -> Tensor:
        return -self.features.values(self.config.column)


class Value(_Factor):
    """Expected value: the order of p(i|u)^κ v_i, as s + λ log v_i with λ = 1/κ, the knob.

    p is the softmax of the scores; its temperature is a factor of λ, and λ = 1 stands for p · v
    where the scores are log-probabilities. Values are those of `ItemFeatures.values`; items of the
    value 0 come last.
    """

    optimum = (
        "The expected value of a list is a sum over items: the order of p^κ · value is its "
        "optimum, and fine-tuning can only store it in the weights."
    )

    def _features(self) -> Tensor:
        values = self.features.values(self.config.column)
        return (values / values.mean()).clamp(min=_LEAST_VALUE).log()


def order_with_offsets(candidates: Candidates, offsets: Tensor, k: int) -> Tensor:
    """Return int64[B, k], the positions of the k highest sums of score and offset; -1 for none.

    Of equal sums the candidate that the model ranks higher comes first.

    Args:
        candidates: of B states.
        offsets: float[I].
        k: list length.
    """
    adjusted = candidates.scores + offsets[candidates.item_index]  # -inf where there is no item
    positions = adjusted.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return positions.masked_fill(~candidates.is_item.gather(1, positions), -1)


def _spread(values: Tensor, is_item: Tensor) -> float:
    """Return the mean over states of the standard deviation of their candidates."""
    n_items = is_item.sum(dim=1).clamp(min=1)
    kept = values.masked_fill(~is_item, 0.0)
    means = kept.sum(dim=1) / n_items
    squares = (kept - means[:, None]).square().masked_fill(~is_item, 0.0)
    return float((squares.sum(dim=1) / n_items).sqrt().mean())
