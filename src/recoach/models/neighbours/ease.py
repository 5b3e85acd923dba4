"""EASE^R (Steck 2019): a linear autoencoder of items in closed form."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.errors import ConfigError
from recoach.models.neighbours.history_model import HistoryConfig, HistoryModel, state_histories
from recoach.models.neighbours.item_table import interaction_matrix
from recoach.models.neighbours.itemknn import distinct


class EASEConfig(HistoryConfig):
    """Settings of EASE; the weight of the penalty is RecBole's."""

    reg_weight: float = Field(default=250.0, gt=0)
    """L2 penalty, lambda of the paper."""
    max_items: int = Field(default=20_000, gt=0)
    """Largest catalogue, because memory grows with its square and seconds with its cube."""


class EASE(HistoryModel):
    """Score items by a linear model of the items of the history, without self-similarity.

        G = X^T X + reg_weight I,   P = G^-1,   B = -P / diag(P) by columns, diag(B) = 0

    X[u, i] is 1 where training row u has item i; the scores are x B, where x has a one for each
    distinct item of the history (Steck 2019, Eq. 8). The order of the history is not read.

    Three matrices of I x I float32 are in memory while it is computed and one afterwards: 4.8 and
    1.6 GB for 20,000 items. For more items than `max_items` a ConfigError says how much.
    """

    config: EASEConfig

    def fit(self, train: RaggedArray) -> None:
        """Invert the matrix of co-occurrences.

        Raises:
            ConfigError: there are more than `max_items` items, or the memory is not sufficient.
        """
        if self.n_items > self.config.max_items:
            raise ConfigError(
                f"Model ease computes three matrices of {self.n_items:,} x {self.n_items:,} "
                f"numbers, {12 * self.n_items**2 / 1e9:.1f} GB, and max_items is "
                f"{self.config.max_items:,}. Use itemknn, drop rare items, or raise max_items "
                "where the memory suffices (--set model.max_items=…)."
            )
        matrix = interaction_matrix(train, self.n_items)
        gram = torch.from_numpy((matrix.T @ matrix).toarray())
        gram.diagonal().add_(self.config.reg_weight)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        del gram
        weights = inverse.div_(-inverse.diagonal().clone())
        weights.fill_diagonal_(0)
        self.register_buffer("item_weights", weights, persistent=False)

    def catalogue_scores(self, queries: Queries) -> Tensor:
        """Return the sums of the weights of the distinct items, see `HistoryModel`."""
        history = distinct(state_histories(queries, self.n_items), self.n_items)
        known = history < self.n_items
        if not history.shape[1]:
            return self.get_buffer("popularity_scores").expand(len(history), -1)
        # Without the padding, each item of which would cost as much as one of the history.
        counts = known.sum(dim=1)
        scores = functional.embedding_bag(
            history[known], self.get_buffer("item_weights"), counts.cumsum(0) - counts, mode="sum"
        )
        empty = ~known.any(dim=1, keepdim=True)
        return torch.where(empty, self.get_buffer("popularity_scores"), scores)
