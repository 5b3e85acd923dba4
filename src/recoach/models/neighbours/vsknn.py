"""V-SKNN: sessions with common items, more weight on the last ones (Ludewig and Jannach 2018)."""

from typing import Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.models.neighbours.history_model import HistoryConfig, HistoryModel
from recoach.models.neighbours.session_index import (
    Floats,
    Ints,
    SessionIndex,
    most_similar,
    state_items,
)

Weighting = Literal["same", "div", "linear", "log", "quadratic"]


class VSKNNConfig(HistoryConfig):
    """Settings of VSKNN."""

    neighbours: int = Field(default=500, gt=0)
    """Most similar sessions whose items are scored."""
    sample: int = Field(default=5000, gt=0)
    """Most recent sessions with a common item that are compared."""
    weighting: Weighting = "quadratic"
    """Weight of the item at place p of L: same 1, div p/L, linear max(0, 1 - (L - p)/10),
    log 1/log10(L - p + 1.7), quadratic (p/L)^2."""
    decay: Weighting = "div"
    """Factor of a session whose most recent common item is the k-th from the end of the history:
    same 1, div 1/k, linear max(0, 1 - k/10), log 1/log10(k + 1.7), quadratic 1/k^2."""
    idf_weight: float = Field(default=5.0, ge=0)
    """Weight of the inverse document frequency of the scored item."""


class VSKNN(HistoryModel):
    """Score the items of the training sessions that are most similar to the history.

        sim(s, n) = sum over common items i of w(place of i in s) / (distinct items of s)
        score(j)  = sum over neighbours n with j of sim(s, n) d(steps since the last common item)
                    * (1 + idf_weight log(sessions / sessions with j))

    Candidates are the `sample` most recent training rows (sessions, or users) with a common item,
    neighbours the most similar of them, the more recent first where they are equal. The training
    row of the state's own user is not among them. A repeated item counts with its last place.

    The defaults are the settings tuned on Diginetica. Others (neighbours, sample, weighting, decay,
    idf_weight): RetailRocket 1500, 2500, same, linear, 10; Yoochoose 100, 1000, quadratic,
    quadratic, 0.

    Departures from the authors' program, which has other values than its paper: the linear decay is
    never negative.
    """

    config: VSKNNConfig

    def fit(self, train: RaggedArray) -> None:
        """Index the training sessions."""
        self.index = SessionIndex.of(train, self.n_items)

    def catalogue_scores(self, queries: Queries) -> Tensor:
        """Return the sums over similar sessions, see `HistoryModel`."""
        config, states = self.config, state_items(queries, self.n_items)
        lengths = states.lengths[states.states]
        weights = _place_weights(states.places, lengths, config.weighting)
        n_distinct = np.bincount(states.states, minlength=len(queries))
        factors = (1 + config.idf_weight * self.index.idf) * self.tie_factors
        scores = self.get_buffer("popularity_scores").cpu().repeat(len(queries), 1)
        for candidates in self.index.neighbours(states, weights, config.sample):
            kept = most_similar(candidates, candidates.dots, config.neighbours)
            pairs = candidates.select(kept)
            steps = states.lengths[pairs.states] - pairs.state_places + 1
            similarities = pairs.dots / n_distinct[pairs.states] * _step_decay(steps, config.decay)
            self.index.add_scores(scores, pairs, similarities, factors)
        return scores.to(self.device)


def _place_weights(places: Ints, lengths: Ints, weighting: Weighting) -> Floats:
    from_end = lengths - places
    values: Floats = np.ones(len(places))
    if weighting == "div":
        values = places / lengths
    elif weighting == "linear":
        values = np.maximum(0, 1 - from_end / 10)
    elif weighting == "log":
        values = 1 / np.log10(from_end + 1.7)
    elif weighting == "quadratic":
        values = (places / lengths) ** 2
    return values


def _step_decay(steps: Ints, decay: Weighting) -> Floats:
    values: Floats = np.ones(len(steps))
    if decay == "div":
        values = 1 / steps
    elif decay == "linear":
        values = np.maximum(0, 1 - steps / 10)
    elif decay == "log":
        values = 1 / np.log10(steps + 1.7)
    elif decay == "quadratic":
        values = 1 / steps**2
    return values
