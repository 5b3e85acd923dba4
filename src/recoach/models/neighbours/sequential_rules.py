"""Sequential rules (SR): which items follow the last item in the training sessions."""

from typing import Literal

import numpy as np
from pydantic import Field
from scipy import sparse
from torch import Tensor

from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.models.neighbours.history_model import HistoryConfig, HistoryModel, last_items
from recoach.models.neighbours.item_table import ItemTable, item_table, table_scores


class SequentialRulesConfig(HistoryConfig):
    """Settings of SequentialRules; the defaults are those of Ludewig and Jannach (2018)."""

    steps: int = Field(default=10, gt=0)
    """Steps after an item within which another one counts as following it."""
    weighting: Literal["div", "quadratic", "same"] = "div"
    """Weight of an item that follows k steps later: div 1/k, quadratic 1/k^2, same 1."""
    rules: int = Field(default=20, gt=0)
    """Best rules kept for each item."""


class SequentialRules(HistoryModel):
    """Score items by how often, and how soon, they follow the last item of the history.

    rule(a -> b) is the sum, over all training rows and all places of a in them, of 1/k for the
    item b that follows k steps later (Kamehkhosh et al. 2017; Ludewig and Jannach 2018).
    An item may follow itself.
    """

    config: SequentialRulesConfig

    def fit(self, train: RaggedArray) -> None:
        """Count the rules of all training rows."""
        shape = (self.n_items, self.n_items)
        rules = sparse.csr_matrix(shape)
        rows = np.repeat(np.arange(len(train)), train.lengths)
        for step in range(1, min(self.config.steps, int(train.lengths.max(initial=1)) - 1) + 1):
            within = rows[step:] == rows[:-step]
            pairs = (train.values[:-step][within], train.values[step:][within])
            weights = np.full(len(pairs[0]), _weight(step, self.config.weighting))
            rules = rules + sparse.coo_matrix((weights, pairs), shape=shape).tocsr()
        coo = rules.tocoo()
        weights = coo.data * self.tie_factors[coo.col]
        table = item_table(coo.row, coo.col, weights, (self.n_items, self.config.rules))
        self.register_buffer("rule_items", table.items, persistent=False)
        self.register_buffer("rule_weights", table.weights, persistent=False)

    def catalogue_scores(self, queries: Queries) -> Tensor:
        """Return the weights of the rules of the last item, see `HistoryModel`."""
        table = ItemTable(self.get_buffer("rule_items"), self.get_buffer("rule_weights"))
        last = last_items(queries, self.n_items)[:, None]
        return table_scores(table, last, self.get_buffer("popularity_scores"))


def _weight(step: int, weighting: str) -> float:
    return {"div": 1 / step, "quadratic": 1 / step**2, "same": 1.0}[weighting]
