"""STAN and VSTAN: similar sessions by recency of items, of sessions and of common items."""

from typing import Final, Literal

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor

from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.models.neighbours.history_model import HistoryConfig, HistoryModel
from recoach.models.neighbours.session_index import (
    Floats,
    Neighbours,
    SessionIndex,
    most_similar,
    state_items,
)

_DAY = 86_400_000

PRESETS: Final[dict[str, dict[str, object]]] = {
    "long_decay": {},
    "short_decay": {
        "neighbours": 1000,
        "sample": 2500,
        "lambda_spw": 3.62,
        "lambda_snh": 100.0,
        "lambda_inh": 0.4525,
        "lambda_ipw": 3.62,
        "idf_weight": 1.0,
    },
}
"""The settings tuned on Diginetica, which are the defaults, and on RetailRocket."""


class VSTANConfig(HistoryConfig):
    """Settings of VSTAN; with `lambda_ipw = 0` and `idf_weight = 0` it is STAN."""

    preset: Literal["long_decay", "short_decay"] = "long_decay"
    """Defaults of the other settings: long_decay where targets rarely repeat the history,
    short_decay where they often do."""
    neighbours: int = Field(default=1500, gt=0)
    """Most similar sessions whose items are scored."""
    sample: int = Field(default=5000, gt=0)
    """Most recent sessions with a common item that are compared."""
    lambda_spw: float = Field(default=4.9, gt=0)
    """Places over which the weight of an item of the history falls to 1/e."""
    lambda_snh: float = Field(default=40.0, ge=0)
    """Days over which the weight of an older session falls to 1/e, where the log has times; 0 gives
    sessions of every age the same weight."""
    lambda_inh: float = Field(default=4.9, gt=0)
    """Steps from the last common item over which the weight of a session's item falls to 1/e."""
    lambda_ipw: float = Field(default=1.225, ge=0)
    """Places over which the weight of a session falls to 1/e, by the place of the most recent
    common item in the history; 0 gives every place the same weight."""
    idf_weight: float = Field(default=10.0, ge=0)
    """Weight of the inverse document frequency of the scored item."""

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        return PRESETS.get(str(values.get("preset")), {}) | values


class VSTAN(HistoryModel):
    """Score the items of similar training sessions, with weights that decay (Garg et al. 2019).

        sim(s, n) = sum over common items of w(p) / (|w| sqrt(distinct items of n))
                    * exp(-age of n / lambda_snh) * exp((p* - L) / lambda_ipw)
        w(p)      = exp((p - L) / lambda_spw), p the last place of the item in the history of L
        score(j)  = sum over neighbours n with j of sim(s, n) exp(-|q(j) - q*| / lambda_inh)
                    * (1 + idf_weight log(sessions / sessions with j))

    p* is the place in s of the most recent common item, q(j) the last place of j in n, q* that of
    the last common item in n. STAN has neither the factor of lambda_ipw nor that of idf_weight
    (VSTAN: Ludewig et al. 2021). Candidates, neighbours and ties are those of VSKNN.

    The age of a session is counted from the most recent candidate of the state: the time of the
    state itself would multiply all its scores by the same number.

    Settings tuned for STAN (neighbours, sample, lambda_spw, lambda_snh, lambda_inh): Diginetica
    500, 10000, 1.225, 20, 4.9; RetailRocket 500, 1000, 1.81, 100, 0.4525; Yoochoose 1000, 10000,
    1e-5, 10, 2. Settings of VSTAN beside the presets: Yoochoose 1500, 10000, 0.5, 5, 2, with
    lambda_ipw 2 and idf_weight 2.
    """

    config: VSTANConfig

    def fit(self, train: RaggedArray) -> None:
        """Index the training sessions."""
        self.index = SessionIndex.of(train, self.n_items)

    def catalogue_scores(self, queries: Queries) -> Tensor:
        """Return the sums over similar sessions, see `HistoryModel`."""
        config, states = self.config, state_items(queries, self.n_items)
        weights = np.exp((states.places - states.lengths[states.states]) / config.lambda_spw)
        norms = np.sqrt(np.bincount(states.states, weights**2, minlength=len(queries)))
        factors = (1 + config.idf_weight * self.index.idf) * self.tie_factors
        decay = np.exp(-np.arange(self.index.longest + 1) / config.lambda_inh)
        scores = self.get_buffer("popularity_scores").cpu().repeat(len(queries), 1)
        for pairs in self.index.neighbours(states, weights, config.sample):
            similarities = self._similarities(pairs, norms)
            if config.lambda_ipw:
                from_end = states.lengths[pairs.states] - pairs.state_places
                similarities = similarities * np.exp(-from_end / config.lambda_ipw)
            kept = most_similar(pairs, similarities, config.neighbours)
            self.index.add_scores(scores, pairs.select(kept), similarities[kept], factors, decay)
        return scores.to(self.device)

    def _similarities(self, pairs: Neighbours, norms: Floats) -> Floats:
        """Return the cosines, times the decay by the age of the session."""
        cosines = pairs.dots / (norms[pairs.states] * np.sqrt(self.index.sizes[pairs.sessions]))
        times, days = self.index.times, self.config.lambda_snh
        if times is None or not days:
            return cosines
        # Pairs are sorted by state, then by time.
        last = np.searchsorted(pairs.states, pairs.states, side="right") - 1
        ages = times[pairs.sessions[last]] - times[pairs.sessions]
        return cosines * np.exp(-ages / (days * _DAY))
