"""Repeat-last: the items of the history again, the most recent first."""

import torch
from torch import Tensor

from recoach.data.queries import Queries
from recoach.models.neighbours.history_model import HistoryConfig, HistoryModel, state_histories


class RepeatLastConfig(HistoryConfig):
    """Settings of RepeatLast."""


class RepeatLast(HistoryModel):
    """Rank the items of the history, the most recent first, then the others by popularity.

    The score of an item of the history is the place, from 1, at which it occurs last. The row of
    this model belongs beside every table whose targets may repeat the history.
    """

    config: RepeatLastConfig

    def catalogue_scores(self, queries: Queries) -> Tensor:
        """Return the last place of each item in the history, see `HistoryModel`."""
        history = state_histories(queries, self.n_items)
        places = torch.arange(1, history.shape[1] + 1, device=history.device).float()
        scores = places.new_zeros(len(history), self.n_items + 1)
        scores.scatter_reduce_(1, history, places.expand(len(history), -1), "amax")
        return scores[:, :-1] + self.get_buffer("popularity_scores")
