"""Equal values find the same first row, whatever their hashes do."""

import numpy as np
import polars as pl
import pytest

from recoach.data.interactions import first_rows

DRAWN = np.random.default_rng(0).integers(0, 4000, 5000)
VALUES = {
    "none": pl.Series([], dtype=pl.String),
    "one": pl.Series(["a"]),
    "all alike": pl.Series(["a"] * 9),
    "all distinct": pl.Series([f"{n}" for n in range(3000)]),
    "short text": pl.Series(DRAWN).cast(pl.String),
    "long text": pl.Series([f"a customer by the number {n}" for n in DRAWN]),
    "whole numbers": pl.Series(DRAWN - 2000),
    "in chunks": pl.concat([pl.Series(DRAWN), pl.Series(DRAWN)], rechunk=False),
}


@pytest.mark.parametrize("case", VALUES)
def test_first_rows(case):
    seen = {}
    expected = [seen.setdefault(value, row) for row, value in enumerate(VALUES[case].to_list())]
    assert first_rows(VALUES[case]).tolist() == expected
