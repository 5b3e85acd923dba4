"""A dataset with categories, costs and times, a model of it, and small candidates."""

import numpy as np
import polars as pl
import pytest
import torch

import recoach
from recoach.rerank.candidates import Candidates

N_ITEMS, DEPTH = 12, 7


@pytest.fixture(scope="session")
def dataset():
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{item}", 1_600_000_000 + 86_400 * place, float(item % 5))
        for user in range(30)
        for place, item in enumerate(rng.permutation(N_ITEMS)[:7])
    ]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "value"], orient="row")
    split = recoach.leave_last_out(recoach.read_interactions(log), name="small")
    table = pl.DataFrame(
        {
            "item_id": split.item_ids,
            "genres": ["a|b", "b", None, "c", "a", "c|d", "d", "b", "a|b|c", "d", "a", "c"],
            "provider": ["x", "x", "y", None, *["z"] * 8],
            "price": [float(place) if place else None for place in range(N_ITEMS)],
        }
    )
    return recoach.data.dataset.replace(split, item_table=table)


@pytest.fixture(scope="session")
def model(dataset):
    return recoach.build_model("sasrec", dataset, dim=8, layers=1).eval()


@pytest.fixture(scope="session")
def candidates():
    """Return candidates of 5 states: the fourth has 3 items, the fifth none."""
    generator = torch.Generator().manual_seed(3)
    items = torch.stack([torch.randperm(N_ITEMS, generator=generator)[:DEPTH] for _ in range(5)])
    scores = torch.randn(5, DEPTH, generator=generator).sort(dim=1, descending=True).values
    for state, length in ((3, 3), (4, 0)):
        items[state, length:], scores[state, length:] = -1, -torch.inf
    profiles = torch.tensor(
        [[0.5, 0.5, 0, 0], [0.1, 0.2, 0.3, 0.4], [0.0, 0, 0, 0], [0, 0, 1, 0], [1.0, 0, 0, 0]]
    )
    return Candidates(items, scores, profiles)
