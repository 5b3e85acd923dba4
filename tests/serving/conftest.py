"""A small log, a model and a shelf of two."""

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
    """Return a function that makes a small model, untrained."""

    def made(name, dataset, seed=1):
        return build_model(name, dataset, seed=seed, **SMALL.get(name, {})).eval()

    return made


@pytest.fixture(scope="session")
def dataset():
    draw = np.random.default_rng(0)
    rows = [(f"u{user}", f"i{item}") for user in range(30) for item in draw.permutation(20)[:7]]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    return leave_last_out(read_interactions(frame), name="small")


@pytest.fixture(scope="session")
def make_shelf(build, dataset):
    """Return a function that makes a shelf of a base and a tuned model."""

    def made(version="one", seed=1, name="sasrec"):
        models = {"base": build(name, dataset, 0), "tuned": build(name, dataset, seed)}
        titles = [f"Title of {item}" for item in dataset.item_ids]
        return ModelSnapshot(dataset, models, titles, version)

    return made


@pytest.fixture(scope="session")
def shelf(make_shelf):
    return make_shelf()
