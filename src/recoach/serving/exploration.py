"""The served policy: deterministic top-k, or Plackett-Luce sampling with exact propensities."""

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recoach.errors import ConfigError
from recoach.serving.snapshot import Recommendation, RecommendQuery

Scores = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

POOL_SIZE = 100
"""Best items of a user from which an exploring policy samples."""


class ServedList(NamedTuple):
    """A list and the probabilities with which the policy showed its items."""

    recommendation: Recommendation
    propensities: list[float]
    """Probability of the item at each position, given the items above it."""


class ServedPolicy:
    """Chooses what is shown from the ranking of a model.

    Without a temperature the k best items are shown, each with propensity 1. With one, k of the
    `POOL_SIZE` best items (of the k best, if k is larger) are sampled without replacement, at each
    position with probabilities proportional to exp(score / temperature) among the items left:
    the Plackett-Luce model, sampled as the k largest of score / temperature + Gumbel noise
    (Kool et al., 2019, "Stochastic beams and where to find them"). Items outside these have
    probability 0.

    Args:
        temperature: None for the k best items.
        reranker: name of the re-ranker that chooses the lists; empty without one.

    Raises:
        ConfigError: the temperature is not above 0.
    """

    def __init__(self, temperature: float | None = None, reranker: str = "") -> None:
        if temperature is not None and not temperature > 0:
            raise ConfigError(f"--explore must be above 0, not {temperature:g}.")
        if temperature is not None and reranker:
            raise ConfigError("--explore samples from the order of the model. Leave --rerank out.")
        self.temperature, self._reranker = temperature, reranker

    @property
    def name(self) -> str:
        """Name of the policy in logs."""
        if self.temperature is None:
            return f"top-k, {self._reranker}" if self._reranker else "top-k"
        return f"plackett-luce({self.temperature:g})"

    def ranked_query(self, query: RecommendQuery) -> RecommendQuery:
        """Return the query whose ranking the policy needs."""
        if self.temperature is None:
            return query
        return query._replace(k=max(query.k, POOL_SIZE))

    @classmethod
    def from_name(cls, name: str) -> "ServedPolicy":
        """Return the policy with a `name`.

        Raises:
            ConfigError: it is the name of no policy.
        """
        temperature = name.removeprefix("plackett-luce(").removesuffix(")")
        if name == "top-k":
            return cls()
        try:
            return cls(float(temperature))
        except ValueError:
            raise ConfigError(f"policy: {name!r} is not the name of a served policy.") from None

    def next_probabilities(self, scores: Scores, is_left: Mask) -> Scores:
        """Return float64[b, S], the probability of each item to be shown at the next position.

        Args:
            scores: float64[b, S] of the items of a ranking of `ranked_query`, best first.
            is_left: bool[b, S], items that are not above the position; a row without any has
                probability 0 everywhere.
        """
        if self.temperature is None:
            is_best = is_left & (np.cumsum(is_left, axis=1) == 1)
            return np.where(is_best, 1.0, 0.0)
        logits = np.where(is_left, scores / self.temperature, -np.inf)
        highest = np.where(is_left.any(axis=1), logits.max(axis=1), 0.0)
        weights = np.exp(logits - highest[:, None])
        probabilities: Scores = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
        return probabilities

    def choose(self, ranking: Recommendation, k: int, seed: str) -> ServedList:
        """Return the list for a ranking of `ranked_query`.

        Args:
            ranking: the best items, best first.
            k: maximum length of the list.
            seed: the same text gives the same list, such as the id of the request.
        """
        if self.temperature is None:
            return ServedList(ranking, [1.0] * len(ranking.items))
        digest = hashlib.blake2b(seed.encode(), digest_size=16).digest()
        generator = np.random.default_rng(int.from_bytes(digest, "big"))
        logits = np.asarray(ranking.scores, dtype=np.float64) / self.temperature
        order = np.argsort(-(logits + generator.gumbel(size=len(logits))), kind="stable")
        logits = logits[order]
        # log of the sum of exp(logit) over each position and all below it
        log_left = np.logaddexp.accumulate(logits[::-1])[::-1]
        propensities = np.minimum(np.exp(logits - log_left), 1.0)[:k]
        shown = order[:k]
        scores = [ranking.scores[index] for index in shown]
        return ServedList(Recommendation(ranking.items[shown], scores), propensities.tolist())
