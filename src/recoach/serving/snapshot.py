"""An immutable snapshot of a run for serving: models, item titles, IDs and user histories."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
import polars as pl
import torch

from recoach.data.dataset import Dataset, RaggedArray
from recoach.data.interactions import IntArray, LongArray
from recoach.data.log_columns import Columns, concatenate, take
from recoach.data.queries import histories
from recoach.models.base import Recommender, check_ids
from recoach.serving.index import Index
from recoach.serving.recommend import UserBatch, candidate_indices, rank_items
from recoach.serving.reranking import ListReranker

BLOCK_SIZE = 8
"""Number of states scored together; smaller blocks are padded to this size. It is small because a
service ranks few states at a time. The other states of a block change a score by rounding errors
only, and only if the model reads histories of different lengths."""


_SEARCH_BLOCK: Final = 1 << 15
"""Rows of the search table that are searched at once; the search ends with enough matches."""
_NO_ITEMS: Final = np.empty(0, dtype=np.int32)


class RecommendQuery(NamedTuple):
    """A validated request for one list, with dataset indices in place of external IDs."""

    user: int
    """User index; -1 for a new user."""
    history: IntArray
    """Item indices, oldest first."""
    k: int
    exclude_seen: bool
    candidates: LongArray | None
    """Sorted distinct item indices to rank; None ranks the whole catalogue."""
    rejected: IntArray = _NO_ITEMS
    """Items that the user rejected."""
    skipped: tuple[str, ...] = ()
    """IDs of the history that are not in the catalogue."""
    is_cold: bool = False
    """Whether nothing is known of the user: the most popular items are recommended."""
    columns: Columns = MappingProxyType({})
    """The columns of the history that the models read; none where it is given as item IDs."""

    @property
    def past(self) -> RaggedArray:
        """The history with its columns, as one row."""
        return RaggedArray(np.array([0, len(self.history)]), self.history, self.columns)


class Recommendation(NamedTuple):
    """The result of one query: at most k items, best first."""

    items: LongArray
    scores: list[float]


@dataclass(frozen=True, slots=True, eq=False)
class ModelSnapshot:
    """Everything the service needs to answer requests; a reload builds a new snapshot."""

    dataset: Dataset
    models: Mapping[str, Recommender]
    """Models by stage ("base", "tuned"); the last one is the default."""
    titles: Sequence[str]
    """Display title of each item."""
    version: str
    """Version of the weights."""
    faiss_indexes: Mapping[str, Index] = field(default_factory=dict)
    """faiss indexes by stage; where there is one, it is searched instead of scoring all items,
    except for queries with candidates."""
    rerankers: Mapping[str, ListReranker] = field(default_factory=dict)
    """Re-rankers by stage; where there is one, it chooses the lists of the stage."""
    user_histories: RaggedArray = field(init=False)
    """All items of each user, oldest first."""
    item_ids: Sequence[str] = field(init=False)
    """Item IDs of the dataset as a list, for fast access to single IDs."""
    user_index: Mapping[str, int] = field(init=False)
    """Index of each user ID."""
    item_index: Mapping[str, int] = field(init=False)
    """Index of each item ID."""
    item_counts: LongArray = field(init=False)
    """int64[n_items], number of interactions with each item."""
    search_table: pl.DataFrame = field(init=False)
    """Columns item, id and title, the latter in lower case; the most popular items first."""

    def __post_init__(self) -> None:
        for model in self.models.values():
            check_ids(model, self.dataset)
        reads = sorted({name for model in self.models.values() for name in model.reads})
        user_histories = histories(self.dataset, "all", reads)
        item_ids = self.dataset.item_ids.to_list()
        user_ids = self.dataset.user_ids.to_list()
        item_counts = np.bincount(user_histories.values, minlength=self.dataset.n_items)
        search_table = pl.DataFrame({"id": item_ids, "title": self.titles}).select(
            pl.int_range(pl.len()).alias("item"), pl.col("id", "title").str.to_lowercase()
        )
        derived = {
            "search_table": search_table[np.argsort(-item_counts, kind="stable")],
            "user_histories": user_histories,
            "item_ids": item_ids,
            "user_index": {user_id: index for index, user_id in enumerate(user_ids)},
            "item_index": {item_id: index for index, item_id in enumerate(item_ids)},
            "item_counts": item_counts,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return (
            f"ModelSnapshot({', '.join(self.models)} on {self.dataset!r}, version {self.version})"
        )

    @property
    def default_model(self) -> str:
        """Stage of the model that is used when a request names none."""
        return list(self.models)[-1]

    def build_query(
        self,
        *,
        user: str | None,
        history: Sequence[str] | None,
        k: int,
        exclude_seen: bool,
        candidates: Sequence[str] | None,
    ) -> RecommendQuery:
        """Return a query with dataset indices, for either a user ID or a history of item IDs.

        The query of an unknown user, and of a history without an item of the catalogue, is cold.

        Raises:
            DataError: no candidate is in the catalogue.
        """
        rejected, skipped, columns = _NO_ITEMS, [], {}
        row = None if user is None else self.user_index.get(user)
        if row is not None:
            user_index = int(self.dataset.trained_users[row])
            item_indices = self.user_histories.row(row)
            events = np.arange(*self.user_histories.offsets[row : row + 2])
            columns = dict(take(self.user_histories.columns, events))
            if self.dataset.negatives is not None:
                rejected = self.dataset.negatives.row(row)
        else:
            user_index = -1
            known = [self.item_index[item] for item in history or () if item in self.item_index]
            item_indices = np.array(known, dtype=np.int32)
            skipped = [item for item in history or () if item not in self.item_index]
        allowed = None if candidates is None else candidate_indices(self.dataset, candidates)
        query = RecommendQuery(user_index, item_indices, k, exclude_seen, allowed, rejected)
        is_cold = user_index < 0 and not len(item_indices)
        return query._replace(skipped=tuple(skipped), is_cold=is_cold, columns=columns)

    def find_items(self, text: str, limit: int) -> list[int]:
        """Return items whose title or ID is a text or contains it, ignoring case.

        Those with exactly this title or ID are first, then the most popular.
        """
        columns, text = pl.col("id", "title"), text.lower()
        exact = self.search_table.filter(pl.any_horizontal(columns == text))
        found = dict.fromkeys(exact["item"].to_list()[:limit])
        contains = pl.any_horizontal(columns.str.contains(text, literal=True))
        for block in self.search_table.iter_slices(_SEARCH_BLOCK):
            if len(found) >= limit:
                break
            found |= dict.fromkeys(block.filter(contains)["item"].to_list())
        return list(found)[:limit]

    def find_users(self, text: str, limit: int) -> list[str]:
        """Return the first users whose ID begins with a text."""
        ids = self.dataset.user_ids
        return ids.filter(ids.str.starts_with(text)).head(limit).to_list()

    def random_user(self, generator: np.random.Generator) -> str:
        """Return a random user with training and test items, or one with any items if none has."""
        users = np.flatnonzero((self.dataset.train.lengths > 0) & (self.dataset.test.lengths > 0))
        if not len(users):
            users = np.flatnonzero(self.user_histories.lengths > 0)
        user_id: str = self.dataset.user_ids[int(generator.choice(users))]
        return user_id

    def recommend(self, stage: str, queries: Sequence[RecommendQuery]) -> list[Recommendation]:
        """Return the recommendations of one stage's model, one for each query.

        Queries with the same candidates and the same columns are ranked in one batch. Cold queries
        get the most popular items, with their numbers of interactions as scores.
        """
        groups: dict[tuple[object, ...], list[int]] = {}
        results: dict[int, Recommendation] = {}
        for index, query in enumerate(queries):
            if query.is_cold:
                results[index] = self._most_popular(query)
                continue
            candidates = None if query.candidates is None else query.candidates.tobytes()
            groups.setdefault((candidates, *query.columns), []).append(index)
        for indices in groups.values():
            group_results = self._rank_group(stage, [queries[index] for index in indices])
            results |= zip(indices, group_results, strict=True)
        return [results[index] for index in range(len(queries))]

    def _rank_group(self, stage: str, queries: Sequence[RecommendQuery]) -> list[Recommendation]:
        batch = UserBatch(
            histories=RaggedArray.from_lengths(
                np.array([len(query.history) for query in queries]),
                np.concatenate([query.history for query in queries]),
                concatenate([query.columns for query in queries]),
            ),
            rows=np.arange(len(queries)),
            users=np.array([query.user for query in queries], dtype=np.int64),
            exclude_seen=np.array([query.exclude_seen for query in queries]),
            rejected=_joined([query.rejected for query in queries]),
        )
        k, reranker = max(query.k for query in queries), self.rerankers.get(stage)
        top = rank_items(
            self.models[stage],
            batch,
            k if reranker is None else reranker.n_candidates(k),
            queries[0].candidates,
            block_size=BLOCK_SIZE,
            index=self.faiss_indexes.get(stage),
        )
        if reranker is not None:
            top = reranker(top, batch.histories, k)
        return [
            _first_k(items, scores, query.k)
            for items, scores, query in zip(top.items.cpu(), top.scores.cpu(), queries, strict=True)
        ]

    def _most_popular(self, query: RecommendQuery) -> Recommendation:
        items: LongArray = self.search_table["item"].to_numpy()
        if query.candidates is not None:
            items = items[np.isin(items, query.candidates)]
        items = items[~np.isin(items, query.rejected)][: query.k]
        return Recommendation(items, self.item_counts[items].astype(float).tolist())


def _first_k(items: torch.Tensor, scores: torch.Tensor, k: int) -> Recommendation:
    is_item = items[:k] >= 0
    return Recommendation(items[:k][is_item].numpy(), scores[:k][is_item].tolist())


def _joined(rows: Sequence[IntArray]) -> RaggedArray | None:
    """Return rows of items as one array; None if all are empty."""
    lengths = np.array([len(row) for row in rows])
    return RaggedArray.from_lengths(lengths, np.concatenate(rows)) if lengths.any() else None
