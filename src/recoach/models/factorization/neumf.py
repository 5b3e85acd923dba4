"""NeuMF (He et al. 2017): matrix factorization and a multilayer perceptron, fused."""

from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recoach.config import StrictConfig
from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.models.base import (
    Draws,
    GroupName,
    Recommender,
    TrainingBatch,
    draw_negatives,
    interaction_keys,
)
from recoach.models.fold_in import fold_in
from recoach.models.losses import binary_cross_entropy

Width = Annotated[int, Field(gt=0)]


class NeuMFConfig(StrictConfig):
    """Settings of NeuMF; the sizes are RecBole's, the number of negatives is the paper's."""

    dim: Width = 64
    """Dimension of the embeddings of GMF."""
    mlp_dim: Width = 64
    """Dimension of the embeddings of the perceptron."""
    hidden_dims: Annotated[tuple[Width, ...], Field(min_length=1)] = (128, 64)
    """Widths of the perceptron's layers."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout rate after each layer of the perceptron."""
    negatives: Width = 4
    """Uniformly drawn negative items for each interaction."""


class NeuMF(Recommender):
    """Neural matrix factorization: a linear layer over GMF and a perceptron (He et al. 2017).

    With embeddings p, q of user u and item i, one pair for each of the two parts (Eq. 8 to 12):

        GMF:   g = p_u * q_i                                        (elementwise)
        MLP:   z_1 = relu(W_1 [p'_u, q'_i] + b_1), ..., z_L = relu(W_L z_(L-1) + b_L)
        score: h . [g, z_L]

    The score is the argument of the paper's sigmoid, which does not change the ranking. It is not
    a dot product of a user's and an item's vector, so the model has no vectors to export.

    Departures: both parts are trained together from scratch instead of being pre-trained one by
    one (section 3.4.1); dropout follows each layer of the perceptron, as in RecBole; layers are
    initialised by Xavier's rule instead of normal(0, 0.01), embeddings as in the paper.

    A user who is not in the training data gets, in both parts, the mean over the items of their
    history of the mean embedding of the training users of the item; zeros without such items.
    """

    needs = ("edges",)
    config: NeuMFConfig
    scores_at_once = 2**15

    def __init__(self, config: NeuMFConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        self.gmf_users = nn.Embedding(self.n_users, config.dim)
        self.gmf_items = nn.Embedding(n_items, config.dim)
        self.mlp_users = nn.Embedding(self.n_users, config.mlp_dim)
        self.mlp_items = nn.Embedding(n_items, config.mlp_dim)
        self.first_layer = nn.Linear(2 * config.mlp_dim, config.hidden_dims[0])
        self.dropout = nn.Dropout(config.dropout)
        self.other_layers = nn.Sequential()
        for n_in, n_out in pairwise(config.hidden_dims):
            self.other_layers.extend(
                [nn.Linear(n_in, n_out), nn.ReLU(inplace=True), nn.Dropout(config.dropout)]
            )
        self.output = nn.Linear(config.dim + config.hidden_dims[-1], 1, bias=False)
        self.train_pairs = interaction_keys(train, n_items)
        for table in (self.gmf_users, self.gmf_items, self.mlp_users, self.mlp_items):
            nn.init.normal_(table.weight, std=0.01)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """Return the scores of items for B states, see `Recommender`."""
        gmf_users, mlp_users = self._users(queries)
        if items is None:
            return self._fused(gmf_users, mlp_users, self.gmf_items.weight, self.mlp_items.weight)
        return self._fused(gmf_users, mlp_users, self.gmf_items(items), self.mlp_items(items))

    def draw(self, batch: TrainingBatch, generator: torch.Generator) -> Draws:
        """Return the negatives of each interaction."""
        users, count = batch.part("edges", "NeuMF").queries.state_users, self.config.negatives
        return (draw_negatives(self.train_pairs, users, self.n_items, count, generator),)

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the binary cross-entropy of interactions and drawn negatives (Eq. 7)."""
        queries, _, positive_ids, _ = batch.part("edges", "NeuMF")
        (negative_ids,) = self.draws_of(batch, generator)
        scores = self.score(queries, torch.cat([positive_ids[:, None], negative_ids], dim=1))
        return binary_cross_entropy(scores[:, 0], scores[:, 1:])

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return the embeddings of users and of items, and the layers."""
        return {
            "user": [self.gmf_users.weight, self.mlp_users.weight],
            "item": [self.gmf_items.weight, self.mlp_items.weight],
            "encoder": [
                *self.first_layer.parameters(),
                *self.other_layers.parameters(),
                self.output.weight,
            ],
        }

    def _fused(
        self, gmf_users: Tensor, mlp_users: Tensor, gmf_items: Tensor, mlp_items: Tensor
    ) -> Tensor:
        """Return float[B, C], the scores of float[B, D] users and float[C, D] or [B, C, D] items.

        The first layer of a concatenation is the sum of a layer of users and one of items: the
        concatenated vectors of all pairs are never stored.
        """
        of_users, of_items = self.first_layer.weight.tensor_split([self.config.mlp_dim], dim=1)
        users = functional.linear(mlp_users, of_users, self.first_layer.bias)[:, None]
        states = (users + functional.linear(mlp_items, of_items)).relu_()
        states = self.other_layers(self.dropout(states))
        of_gmf, of_mlp = self.output.weight[0].tensor_split([self.config.dim])
        weighted = gmf_users * of_gmf
        if gmf_items.ndim == 2:
            products = weighted @ gmf_items.T
        else:
            products = torch.einsum("bd,bcd->bc", weighted, gmf_items)
        scores: Tensor = products + states @ of_mlp
        return scores

    def _users(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """Return the states' users' embeddings of GMF and of the perceptron."""
        tables = (self.gmf_users.weight, self.mlp_users.weight)
        if not queries.has_new_users:
            users = queries.state_users
            return tables[0][users], tables[1][users]
        history = queries.history[queries.rows]
        gmf, mlp = (fold_in(queries, table, self._mean_users(table, history)) for table in tables)
        return gmf, mlp

    def _mean_users(self, table: Tensor, history: Tensor) -> Tensor:
        """Return float[I, D], the mean embedding of the training users of the history's items."""
        pairs = self.train_pairs.to(table.device)
        items = pairs % self.n_items
        is_needed = torch.isin(items, history)
        users, items = pairs[is_needed] // self.n_items, items[is_needed]
        sums = table.new_zeros(self.n_items, table.shape[1]).index_add(0, items, table[users])
        return sums / items.bincount(minlength=self.n_items).clamp(min=1)[:, None]
