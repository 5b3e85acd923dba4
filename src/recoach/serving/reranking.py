"""Re-rank the lists of a model when they are served."""

import time
from typing import Final

import numpy as np
import polars as pl
import torch

from recoach.data.dataset import Dataset, RaggedArray
from recoach.data.queries import histories
from recoach.evaluation.ranking import TopItems
from recoach.models.base import Recommender
from recoach.rerank.candidates import Candidates
from recoach.rerank.config import RerankConfig
from recoach.rerank.features import ItemFeatures
from recoach.rerank.registry import build_reranker
from recoach.serving.recommend import UserBatch, Users, rank_items, to_frame, user_batches

_LIST_LENGTH: Final = 10
_MOST_USERS: Final = 2000
"""Users whose lists offsets of exposure limits are fitted on, spread evenly over all users."""
_TIMED_USERS: Final = 20


class ListReranker:
    """Re-ranks the lists of one model; limits of exposure hold for lists of 10 items.

    Args:
        config: the settings.
        model: whose lists they are.
        dataset: has the items and the histories of all users.

    Raises:
        ConfigError: the data lack what the re-ranker reads.
    """

    def __init__(self, config: RerankConfig, model: Recommender, dataset: Dataset) -> None:
        self.config = config
        self._features = ItemFeatures(dataset, model, config.category)
        self._reranker = build_reranker(config, self._features)
        past = histories(dataset, "all", model.reads)
        users = np.flatnonzero(past.lengths > 0)
        users = users[:: max(1, -(-len(users) // _MOST_USERS))]
        if not self._reranker.fits:
            users = users[:_TIMED_USERS]
        batch = UserBatch(past, users, dataset.trained_users[users], exclude_seen=True)
        top = rank_items(model, batch, config.depth)
        rows = past.take_rows(users)
        self._reranker.fit(self._candidates(top, rows), _LIST_LENGTH)
        self.milliseconds = self._milliseconds(top, rows)
        """Median time that re-ranking adds to one list."""

    def __repr__(self) -> str:
        return f"ListReranker({self.name})"

    @property
    def name(self) -> str:
        """Name and knob, such as "mmr(0.3)"."""
        return f"{self.config.by}({self.config.knob:g})"

    def n_candidates(self, k: int) -> int:
        """Return the number of best items that a list of k items needs."""
        return max(self.config.depth, k)

    def __call__(self, top: TopItems, past: RaggedArray, k: int) -> TopItems:
        """Return lists of k items from the best items of B users, on the CPU.

        The first `depth` items are re-ranked; in a longer list the others follow in the order of
        the model. A list therefore depends neither on k nor on the other users of the batch.

        Args:
            top: the `n_candidates(k)` best items of each user, or all if there are fewer.
            past: the histories of the B users.
            k: list length.
        """
        depth = self.config.depth
        first = self._reranker(self._candidates(top, past), k)
        rest = TopItems(*(values[:, depth:k].cpu() for values in top))
        return TopItems(*(torch.cat(parts, dim=1) for parts in zip(first, rest, strict=True)))

    def _candidates(self, top: TopItems, past: RaggedArray) -> Candidates:
        items, scores = (values[:, : self.config.depth].cpu() for values in top)
        needs_profiles = self._reranker.reads_profiles
        profiles = self._features.profiles(past) if needs_profiles else None
        return Candidates(items, scores, profiles)

    def _milliseconds(self, top: TopItems, rows: RaggedArray) -> float:
        seconds = []
        for user in range(min(_TIMED_USERS, len(rows))):
            one = TopItems(*(values[user : user + 1] for values in top))
            start = time.perf_counter()
            self(one, rows.take_rows(np.array([user])), _LIST_LENGTH)
            seconds.append(time.perf_counter() - start)
        return 1000 * float(np.median(seconds)) if seconds else 0.0


def recommend_reranked(
    model: Recommender,
    dataset: Dataset,
    users: Users,
    reranker: ListReranker,
    *,
    k: int = 10,
    exclude_seen: bool = True,
) -> pl.DataFrame:
    """Return the re-ranked lists of users as a table, see `recoach.recommend`.

    Scores are those of the model; they need not descend within a list.

    Args:
        model: whose lists are re-ranked.
        dataset: has the IDs and the histories of its users.
        users: see `recoach.recommend`.
        reranker: made for this model.
        k: maximum length of a list.
        exclude_seen: exclude items of the user's history.

    Raises:
        ConfigError: k is below 1.
        DataError: see `recoach.recommend`.
        ModelError: the model was built for other users or items.
    """
    user_ids, batches = user_batches(model, dataset, users, k, exclude_seen=exclude_seen)
    results = [
        reranker(
            rank_items(model, batch, reranker.n_candidates(k)),
            batch.histories.take_rows(batch.rows),
            k,
        )
        for batch in batches
    ]
    return to_frame(dataset, user_ids, results)
