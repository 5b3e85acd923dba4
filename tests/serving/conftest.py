"""A small dataset, small models and a snapshot with two of them."""

import numpy as np
import polars as pl
import pytest

from recoach.data.ingest import read_interactions
from recoach.data.split import leave_last_out
from recoach.models.registry import build_model
from recoach.serving.snapshot import ModelSnapshot

SMALL = {"sasrec": {"dim": 8, "layers": 1}, "gsau": {"dim": 8, "layers": 1}, "lightgcn": {"dim": 8}}


@pytest.fixture(scope="session")
def build():
    """Return a function that builds a small untrained model."""

    def build_small(name, dataset, seed=1):
        return build_model(name, dataset, seed=seed, **SMALL.get(name, {})).eval()

    return build_small


@pytest.fixture(scope="session")
def dataset():
    rng = np.random.default_rng(0)
    rows = [(f"u{user}", f"i{item}") for user in range(30) for item in rng.permutation(20)[:7]]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    return leave_last_out(read_interactions(frame), name="small")


@pytest.fixture(scope="session")
def make_snapshot(build, dataset):
    """Return a function that makes a snapshot with a base and a tuned model."""

    def make(version="one", seed=1, name="sasrec"):
        models = {"base": build(name, dataset, 0), "tuned": build(name, dataset, seed)}
        titles = [f"Title of {item}" for item in dataset.item_ids]
        return ModelSnapshot(dataset, models, titles, version)

    return make


@pytest.fixture(scope="session")
def snapshot(make_snapshot):
    return make_snapshot()
