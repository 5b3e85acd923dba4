"""FPMC (Rendle et al. 2010): factorised personalised Markov chains, for one item at a time.

The score of item i for user u after item l is <U_u, V_i> + <L_l, W_i>: matrix factorization plus a
factorised Markov chain of order one. The basket of the paper is the last item. The third pairwise
term of the factorisation, user with last item, is the same for all i and is left out, as in the
paper. There is no official code.

Departures: the optimiser is that of the training settings (SGD in the paper); tables are
initialised as in RecBole (Xavier normal); the padding item has a zero vector in L and no row in V
and W, while RecBole ranks it; `ce` is the cross-entropy over all items, which the paper does not
have. session-rec gives an unknown user the mean of the vectors V; here the user's part is zero, so
that the Markov chain alone ranks.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recoach.config import StrictConfig
from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.models.base import (
    DotProductRecommender,
    Draws,
    Embeddings,
    GroupName,
    TrainingBatch,
)
from recoach.models.losses import bpr, cross_entropy


class FPMCConfig(StrictConfig):
    """Settings of FPMC; the defaults are RecBole's."""

    dim: int = Field(default=64, gt=0)
    """Dimension of each of the four tables; the vectors of states and items are twice as long."""
    users: bool = True
    """Whether there is a vector for each user. Without them (anonymous sessions) the score is that
    of the Markov chain, <L_l, W_i>, and vectors have `dim` numbers."""
    loss: Literal["bpr", "ce"] = "bpr"
    """BPR with one uniform negative that is not the next item, or cross-entropy over all items."""


class FPMC(DotProductRecommender):
    """Vectors [U_u ; L_l] of states and [V_i ; W_i] of items, whose product is the score.

    A user outside the training data and an empty history have a zero part.
    """

    needs = ("states",)
    takes_weights = True
    config: FPMCConfig

    def __init__(self, config: FPMCConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        dim, self.knows_users = config.dim, config.users
        self.last_items = nn.Embedding(n_items + 1, dim, padding_idx=n_items)
        self.items = nn.Embedding(n_items, dim * (1 + config.users))
        tables = [self.last_items.weight, *torch.split(self.items.weight, dim, dim=1)]
        if config.users:
            self.users = nn.Embedding(self.n_users, dim)
            tables.append(self.users.weight)
        with torch.no_grad():
            for table in tables:
                nn.init.xavier_normal_(table)
            self.last_items.weight[n_items] = 0

    @property
    def history_length(self) -> int:
        """1: the model reads the last item."""
        return 1

    def embed(self, queries: Queries) -> Embeddings:
        """Return [U_u ; L_l] of each state and [V_i ; W_i] of all items."""
        return Embeddings(self._states(queries), self.items.weight)

    def draw(self, batch: TrainingBatch, generator: torch.Generator) -> Draws:
        """Return the distances of the negatives from the next items, with the loss `bpr`."""
        if self.config.loss == "ce":
            return ()
        targets = batch.part("states", "FPMC").targets
        shifts = torch.randint(1, max(2, self.n_items), targets.shape, generator=generator)
        return (shifts,)

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the configured loss of the next items."""
        queries, _, targets, weights = batch.part("states", "FPMC")
        states = self._states(queries)
        if self.config.loss == "ce":
            table = self.items.weight
            return cross_entropy(states, table, targets, workspace=self.workspace, weights=weights)
        (shifts,) = self.draws_of(batch, generator)
        negative_ids = (targets + shifts) % self.n_items  # any other item
        positives, negatives = self.items(torch.cat([targets, negative_ids])).chunk(2)
        return bpr((states * positives).sum(dim=1), (states * negatives).sum(dim=1), weights)

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return the tables of items, V with W and L, and the user table."""
        groups: dict[GroupName, list[Tensor]] = {}
        if self.config.users:
            groups["user"] = [self.users.weight]
        return groups | {"item": [self.items.weight, self.last_items.weight]}

    def _states(self, queries: Queries) -> Tensor:
        """Return float[B, 2 dim], or float[B, dim] without users."""
        last_items = torch.full_like(queries.ends, self.n_items)
        if queries.history.shape[1]:
            places = (queries.ends - 1).clamp(min=0)
            last_items = queries.history[queries.rows, places].where(queries.ends > 0, last_items)
        markov: Tensor = self.last_items(last_items)
        if not self.config.users:
            return markov
        users = queries.state_users
        personal = self.users(users.clamp(min=0)) * (users >= 0)[:, None]
        return torch.cat([personal, markov], dim=1)
