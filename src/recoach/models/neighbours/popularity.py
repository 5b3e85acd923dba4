"""Popularity: the same ranking for every user, the baseline that any model must beat."""

import torch
from torch import Tensor

from recoach.config import StrictConfig
from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.models.base import DotProductRecommender, Embeddings, GroupName


class PopularityConfig(StrictConfig):
    """Settings of Popularity: none."""


class Popularity(DotProductRecommender):
    """Score an item by its number of training interactions."""

    knows_users = False

    def __init__(self, config: PopularityConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        train_items = torch.from_numpy(train.values).long()
        counts = torch.bincount(train_items, minlength=n_items).float()
        self.register_buffer("counts", counts, persistent=False)

    def embed(self, queries: Queries) -> Embeddings:
        """Return a one for each state and the counts of the items, each as float[..., 1]."""
        counts = self.get_buffer("counts")
        return Embeddings(counts.new_ones(len(queries), 1), counts[:, None])

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return an empty dictionary: there are no parameters."""
        return {}
