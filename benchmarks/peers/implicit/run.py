"""implicit's part of the benchmarks."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # implicit has threads of its own
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import DIM, THREADS, answer, main, read, repeated, vectors
from implicit.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix


def rank(folder: Path, out: Path) -> None:
    """Time the 50 best items of all users, seen items left out; no metrics."""
    log = read(folder)
    seen = log.part(log.back > 0)
    taken = csr_matrix((np.ones(len(seen.user), np.float32), (seen.user, seen.item)), log.shape)
    model = AlternatingLeastSquares(factors=DIM, num_threads=THREADS)
    model.user_factors, model.item_factors = vectors(log.shape)
    everyone = np.arange(len(model.user_factors))
    seconds = repeated(
        lambda: model.recommend(everyone, taken, N=50, filter_already_liked_items=True)
    )
    answer(out, {"seconds": seconds}, "implicit", "scipy")


if __name__ == "__main__":
    main({"rank": rank})
