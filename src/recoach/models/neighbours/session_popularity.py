"""Session popularity (S-POP): the items of the history by their number of occurrences."""

import torch
from torch import Tensor

from recoach.data.queries import Queries
from recoach.models.neighbours.history_model import HistoryConfig, HistoryModel, state_histories


class SessionPopularityConfig(HistoryConfig):
    """Settings of SessionPopularity."""


class SessionPopularity(HistoryModel):
    """Score an item by its occurrences in the history (S-POP, Hidasi et al. 2016).

    Ties are broken by the number of training interactions, then by the lower item number, so the
    items outside the history are ranked by popularity.
    """

    config: SessionPopularityConfig

    def catalogue_scores(self, queries: Queries) -> Tensor:
        """Return the occurrences of each item in the history, see `HistoryModel`."""
        history = state_histories(queries, self.n_items)
        counts = torch.zeros(len(history), self.n_items + 1, device=history.device)
        counts.scatter_add_(1, history, torch.ones(history.shape, device=history.device))
        return counts[:, :-1] + self.get_buffer("popularity_scores")
