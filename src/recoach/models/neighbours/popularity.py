"""Popularity: the same list for everybody, the control that any model must beat."""

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from recoach.data.batches import Queries
from recoach.data.split import RaggedArray
from recoach.models.base import Embeddings, GroupName, Recommender


class PopularityConfig(BaseModel):
    """Popularity has no settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Popularity(Recommender):
    """Score an item by how often it was taken in training."""

    def __init__(self, config: PopularityConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        taken = torch.from_numpy(train.values).long()
        counts = torch.bincount(taken, minlength=n_items).float()
        self.register_buffer("counts", counts, persistent=False)

    def embed(self, queries: Queries) -> Embeddings:
        """Return ones for every state and the counts of the items."""
        counts = self.get_buffer("counts")
        return Embeddings(counts.new_ones(len(queries), 1), counts[:, None])

    def tables(self) -> dict[GroupName, list[Tensor]]:
        """Return nothing: there is nothing to train."""
        return {}
