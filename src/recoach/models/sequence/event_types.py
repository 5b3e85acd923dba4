"""The embedding of the event types of a history, which sequence models add to their inputs."""

import numpy as np
import polars as pl
from torch import Tensor, nn

from recoach.data.dataset import RaggedArray, event_types
from recoach.data.queries import Queries
from recoach.errors import ConfigError


class EventEmbedding(nn.Module):
    """A vector for each event type.

    An item without a type is read as one of the most frequent type: items of new users, whose
    histories are given as item ids, and types that the training data do not have.

    Args:
        train: the training histories, with the column `event_type`.
        dim: of the vectors.

    Raises:
        ConfigError: the log has no event types.
    """

    def __init__(self, train: RaggedArray, dim: int) -> None:
        super().__init__()
        check_event_types(train, "event_embedding = true")
        self.n_types = len(event_types(train))
        codes = train.columns["event_type"].to_physical().drop_nulls().cast(pl.Int64).to_numpy()
        self.most_frequent = int(np.bincount(codes, minlength=self.n_types).argmax())
        self.table = nn.Embedding(self.n_types, dim)

    def forward(self, queries: Queries, rows: slice | Tensor, width: int) -> Tensor:
        """Return float[r, width, D], the vectors of the event types of some histories.

        Args:
            queries: the histories, with the column `event_type` where the types are known.
            rows: r rows of them.
            width: number of positions.
        """
        codes = queries.columns.get("event_type")
        if codes is None:
            codes = queries.history.new_full(queries.history.shape, self.n_types)
        codes = codes[rows, :width]
        vectors: Tensor = self.table(codes.where(codes < self.n_types, self.most_frequent))
        return vectors


def check_event_types(train: RaggedArray, what: str) -> None:
    """Raise a ConfigError if histories have no event types.

    Args:
        train: the histories.
        what: what needs the types, for the message.
    """
    if not event_types(train):
        raise ConfigError(
            f"{what} needs event types, and the data have none; map their column with "
            "--column event_type=NAME, or leave the setting out."
        )
