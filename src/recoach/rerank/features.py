"""What re-rankers know of items: popularity, vectors, categories, columns of the items table."""

from collections.abc import Sequence
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import polars as pl
import torch
from scipy import sparse
from torch import Tensor

from recoach.data.columns import find_usual_name
from recoach.data.dataset import Dataset, RaggedArray
from recoach.data.queries import histories, user_queries
from recoach.errors import ConfigError, listed
from recoach.evaluation.beyond_accuracy import category_distributions, category_matrix
from recoach.models.base import DotProductRecommender, Recommender, eval_mode

_CATEGORY_NAMES: Final = ("category", "categories", "genre", "genres")
N_CLUSTERS: Final = 20
"""Number of clusters of item vectors that stand for categories."""
_ROUNDS = 20
_MS_PER_DAY: Final = 86_400_000


class Groups(NamedTuple):
    """A partition of the items."""

    numbers: Tensor
    """int64[I], the group of each item; -1 for none."""
    names: Sequence[str]
    """The name of each group."""


class ItemFeatures:
    """Features of the I items of a dataset, each computed when it is first asked for, on the CPU.

    Args:
        dataset: its train part gives popularity and age, its items table everything else.
        model: the model whose candidates are re-ranked; its item vectors stand for categories where
            there are none.
        category: see `RerankConfig.category`.

    Raises:
        ConfigError: there is no such column.
    """

    def __init__(
        self, dataset: Dataset, model: Recommender | None, category: str | None = None
    ) -> None:
        self.dataset, self._model = dataset, model
        table = dataset.item_table
        names = [] if table is None else [name for name in table.columns if name != "item_id"]
        self._category: str | None = category or find_usual_name(names, _CATEGORY_NAMES)
        if category is not None:
            self._column(category)

    @cached_property
    def popularity(self) -> Tensor:
        """float[I], number of training interactions of each item."""
        counts = np.bincount(self.dataset.train.values, minlength=self.dataset.n_items)
        return torch.from_numpy(counts).float()

    @cached_property
    def category_matrix(self) -> sparse.csr_matrix:
        """float32[I, C], 1 where an item is in a category.

        The categories are those of a column of the items table (a list, or text with | between
        several), or else the `N_CLUSTERS` clusters of the model's item vectors.

        Raises:
            ConfigError: there are neither categories nor vectors.
        """
        if self._category is None:
            labels = _clusters(self._model_vectors).numpy()
            cells = (np.ones(len(labels), np.float32), (np.arange(len(labels)), labels))
            return sparse.csr_matrix(cells, shape=(len(labels), int(labels.max()) + 1))
        return category_matrix(_names(self._column(self._category)))

    @cached_property
    def categories(self) -> Tensor:
        """float[I, C], `category_matrix` with all its zeros."""
        return torch.from_numpy(self.category_matrix.toarray())

    @cached_property
    def shares(self) -> Tensor:
        """float[I, C], `categories` with the weight of an item divided equally among its own."""
        return self.categories / self.categories.sum(dim=1, keepdim=True).clamp(min=1)

    @cached_property
    def vectors(self) -> Tensor:
        """float[I, D], unit vectors whose products are similarities; 0 for an item without any.

        Those of the categories in the items table, or else the model's.

        Raises:
            ConfigError: there are neither categories nor vectors.
        """
        if self._category is None:
            return self._model_vectors
        return torch.nn.functional.normalize(self.categories, dim=1)

    @property
    def has_categories(self) -> bool:
        """Whether the items table has categories."""
        return self._category is not None

    @property
    def has_vectors(self) -> bool:
        """Whether there are categories, or item vectors of the model."""
        return self.has_categories or isinstance(self._model, DotProductRecommender)

    def profiles(self, rows: RaggedArray) -> Tensor:
        """Return float[B, C], the distribution of categories in each of B histories; 0 if none."""
        states = np.repeat(np.arange(len(rows)), rows.lengths)
        p = category_distributions(states, rows.values, self.category_matrix, len(rows))
        return torch.from_numpy(np.nan_to_num(p)).float()

    def values(self, column: str | None) -> Tensor:
        """Return float[I], a column of numbers; a missing number is the mean of the others.

        Args:
            column: of the items table; None for the mean `value` of an item's training events.

        Raises:
            ConfigError: there is no such column, or it has no numbers.
        """
        if column is None:
            numbers = self._mean_event_values()
        else:
            numbers = self._column(column).cast(pl.Float64, strict=False)
        known = numbers.is_not_null() & numbers.is_finite().fill_null(value=False)
        if not known.any():
            raise ConfigError(f"column {column or 'value'!r} has no numbers. Choose another one.")
        mean = float(numbers.filter(known).mean())  # type: ignore[arg-type]
        filled = np.where(known.to_numpy(), numbers.fill_null(mean).to_numpy(), mean)
        return torch.from_numpy(filled).float()

    def groups(self, column: str | None, member: str | None = None) -> Groups:
        """Return the groups of a column of the items table; None makes every item a group.

        Args:
            column: its values are the groups.
            member: the one value whose group is returned; None for all.

        Raises:
            ConfigError: there is no such column, or it does not have the value.
        """
        if column is None:
            n_items = self.dataset.n_items
            return Groups(torch.arange(n_items), self.dataset.item_ids.to_list())
        text = self._column(column).cast(pl.String, strict=False)
        names = text.drop_nulls().unique().sort().to_list()
        if member is not None:
            if member not in names:
                raise ConfigError(f"column {column!r} has no value {member!r}. Choose another one.")
            names = [member]
        number = {name: place for place, name in enumerate(names)}
        return Groups(torch.tensor([number.get(name, -1) for name in text]), names)

    def new_items(self, days: float) -> Groups:
        """Return the group of the items whose first training event is at most so many days old.

        Their age is that at the end of train. Items without a training event are new.

        Raises:
            ConfigError: the log has no times.
        """
        train = self.dataset.train
        if "timestamp" not in train.columns:
            raise ConfigError("new_days needs the times of events, and the log has none.")
        times = train.columns["timestamp"].to_numpy()
        first = np.full(self.dataset.n_items, np.iinfo(np.int64).max)
        np.minimum.at(first, train.values, times)
        is_new = torch.from_numpy(first >= times.max() - days * _MS_PER_DAY)
        return Groups(is_new.long() - 1, ["new"])

    @cached_property
    def _model_vectors(self) -> Tensor:
        if not isinstance(self._model, DotProductRecommender):
            raise ConfigError(
                f"{type(self._model).__name__} has no item vectors. Prepare the data with an items "
                "table that has a column of categories."
            )
        past = histories(self.dataset, "valid", self._model.reads)
        length = self._model.history_length
        with torch.no_grad(), eval_mode(self._model):
            queries = user_queries(
                past, np.arange(1), length, self.dataset.n_items, mask_seen=False
            )
            vectors = self._model.embed(queries.to(self._model.device)).items
        return torch.nn.functional.normalize(vectors.detach().float().cpu(), dim=1)

    def _column(self, name: str) -> pl.Series:
        table = self.dataset.item_table
        names = [] if table is None else [column for column in table.columns if column != "item_id"]
        if table is None or name not in names:
            known = f"It has {listed(names)}." if names else "There is no items table."
            raise ConfigError(f"the items table has no column {name!r}. {known}")
        return table[name]

    def _mean_event_values(self) -> pl.Series:
        train = self.dataset.train
        if "value" not in train.columns:
            raise ConfigError(
                "the log has no column `value`. Name a column of the items table with the values."
            )
        events = pl.DataFrame({"item": train.values, "value": train.columns["value"]})
        means = events.group_by("item").agg(pl.col("value").cast(pl.Float64).mean())
        items = pl.DataFrame({"item": np.arange(self.dataset.n_items, dtype=np.int32)})
        return items.join(means, on="item", how="left", maintain_order="left")["value"]


def _names(column: pl.Series) -> list[list[str]]:
    """Return the categories of each item: a list, or text with | between several."""
    if not isinstance(column.dtype, pl.List):
        column = column.cast(pl.String, strict=False).str.split("|")
    return [
        [str(name).strip() for name in names if name is not None and str(name).strip()]
        for names in column.to_list()
        for names in [names or []]
    ]


def _clusters(vectors: Tensor) -> Tensor:
    """Return int64[I], the cluster of each unit vector by spherical k-means (Dhillon & Modha 2001).

    Clusters without items are left out, so that there may be fewer than `N_CLUSTERS`.
    """
    generator = torch.Generator().manual_seed(0)
    first = torch.randperm(len(vectors), generator=generator)[:N_CLUSTERS]
    centroids = vectors[first]
    labels = torch.zeros(len(vectors), dtype=torch.int64)
    for _ in range(_ROUNDS):
        labels = (vectors @ centroids.T).argmax(dim=1)
        sums = torch.zeros_like(centroids).index_add_(0, labels, vectors)
        moved = torch.nn.functional.normalize(sums, dim=1)
        centroids = torch.where(sums.norm(dim=1, keepdim=True) > 0, moved, centroids)
    numbers: Tensor = torch.unique(labels, return_inverse=True)[1]
    return numbers
