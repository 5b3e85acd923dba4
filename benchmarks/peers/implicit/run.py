"""Benchmark tasks run with implicit."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # implicit starts its own threads
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import (
    DIM,
    THREADS,
    lists_of_users,
    main,
    median_seconds,
    read,
    vectors,
    write_result,
)
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import CosineRecommender
from scipy.sparse import csr_matrix


def rank(folder: Path, out: Path) -> None:
    """Time the top 50 unseen items of all users, without metrics."""
    log = read(folder)
    seen = log.select(log.from_end > 0)
    interactions = csr_matrix(
        (np.ones(len(seen.user), np.float32), (seen.user, seen.item)), log.shape
    )
    model = AlternatingLeastSquares(factors=DIM, num_threads=THREADS)
    model.user_factors, model.item_factors = vectors(log.shape)
    users = np.arange(len(model.user_factors))
    seconds = median_seconds(
        lambda: model.recommend(users, interactions, N=50, filter_already_liked_items=True)
    )
    write_result(out, {"seconds": seconds}, "implicit", "scipy")


def itemknn(folder: Path, out: Path) -> None:
    """Time the cosine similarities of items and the top 50 unseen items of all users.

    An item is among its own neighbours, so that there are 101 instead of 100.
    """
    log = read(folder)
    train, valid = log.hold_out()
    interactions = csr_matrix((np.ones(len(train.user)), (train.user, train.item)), log.shape)
    model = CosineRecommender(K=101, num_threads=THREADS)
    rows = interactions[valid.user]

    def rank() -> np.ndarray:
        return model.recommend(valid.user, rows, N=50, filter_already_liked_items=True)[0]

    result = lists_of_users(lambda: model.fit(interactions, show_progress=False), rank, valid.item)
    write_result(out, result, "implicit", "scipy")


if __name__ == "__main__":
    main({"rank": rank, "itemknn": itemknn})
