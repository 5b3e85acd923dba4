"""The base class of models that are computed from train without gradient steps."""

from abc import abstractmethod
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from recoach.config import StrictConfig
from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.models.base import GroupName, Recommender


class HistoryConfig(StrictConfig):
    """Settings of every model that reads a history and has no weights."""

    max_length: int = Field(default=1000, gt=0)
    """Last items of a history that are read."""


class HistoryModel(Recommender):
    """A model without weights that scores the catalogue from the items of a history.

    A subclass computes what it needs from train in `fit` and scores the catalogue in
    `catalogue_scores`. Items that the model has no score for are ranked by their training
    interactions, below all others; so is the catalogue for an empty history.

    Sums of few equal numbers are often equal, and equal scores count against a model. The scores of
    an item are therefore multiplied by its `tie_factors`.
    """

    config: HistoryConfig
    knows_users = False
    scores_at_once = 2**26

    def __init__(self, config: HistoryConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        self.register_buffer(
            "popularity_scores",
            torch.from_numpy(popularity_scores(train, n_items)),
            persistent=False,
        )
        if not is_meta():
            self.fit(train)

    @property
    def history_length(self) -> int:
        """Number of last items the model reads."""
        return self.config.max_length

    def fit(self, train: RaggedArray) -> None:
        """Compute what `catalogue_scores` needs; the default needs nothing."""

    @abstractmethod
    def catalogue_scores(self, queries: Queries) -> Tensor:
        """Return float32[B, I], the scores of the catalogue."""

    @final
    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """Return the scores of items for B states, see `Recommender`."""
        scores = self.catalogue_scores(queries)
        if items is None:
            return scores
        return scores[:, items] if items.ndim == 1 else scores.gather(1, items)

    @property
    def tie_factors(self) -> npt.NDArray[np.float64]:
        """float64[I], factors from 1 down to 1 - 2^-14: of equal scores the lower item comes first.

        In float32 they have about a thousand values, so a few items remain equal, and scores that
        differ by less than 0.00006 of them may change places.
        """
        return 1 - 2.0**-14 * np.arange(self.n_items) / self.n_items

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return an empty dictionary: there are no parameters."""
        return {}


def is_meta() -> bool:
    """Return whether a model is built without values, as `load_model` does to compare shapes."""
    return torch.empty(0).is_meta


def popularity_scores(train: RaggedArray, n_items: int) -> npt.NDArray[np.float32]:
    """Return float32[I] distinct values in [-1, 0), in the order of training interactions.

    The item with the most interactions has the highest value; of items with equally many, the one
    with the lowest number. Added to whole numbers, they break ties.
    """
    counts = np.bincount(train.values, minlength=n_items)
    scores = np.empty(n_items, dtype=np.float32)
    scores[np.argsort(-counts, kind="stable")] = -np.arange(1, n_items + 1) / (n_items + 1)
    return scores


def state_histories(queries: Queries, n_items: int) -> Tensor:
    """Return int64[B, T], the items of each state, oldest first, padded on the right with I."""
    history = queries.history[queries.rows]
    places = torch.arange(history.shape[1], device=history.device)
    return history.masked_fill(places >= queries.ends[:, None], n_items)


def last_items(queries: Queries, n_items: int) -> Tensor:
    """Return int64[B], the last item of each state; I for an empty history."""
    if not queries.history.shape[1]:
        return torch.full_like(queries.ends, n_items)
    last = queries.history[queries.rows, (queries.ends - 1).clamp(min=0)]
    return last.masked_fill(queries.ends == 0, n_items)


def interaction_times(train: RaggedArray) -> npt.NDArray[np.int64] | None:
    """Return int64[m], the time of each training interaction in ms; None if the log has none.

    An interaction without a time counts as the oldest of all.
    """
    times = train.columns.get("timestamp")
    if times is None or times.null_count() == len(times):
        return None
    filled: npt.NDArray[np.int64] = times.fill_null(times.min()).to_numpy()
    return filled
