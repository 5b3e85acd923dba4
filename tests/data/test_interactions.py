"""Equal values have the same first row, also with hash collisions."""

import numpy as np
import polars as pl
import pytest

from recoach.data.interactions import first_rows

NUMBERS = np.random.default_rng(0).integers(0, 4000, 5000)
VALUES = {
    "none": pl.Series([], dtype=pl.String),
    "one": pl.Series(["a"]),
    "all equal": pl.Series(["a"] * 9),
    "all distinct": pl.Series([f"{n}" for n in range(3000)]),
    "short text": pl.Series(NUMBERS).cast(pl.String),
    "long text": pl.Series([f"a customer with the number {n}" for n in NUMBERS]),
    "whole numbers": pl.Series(NUMBERS - 2000),
    "in chunks": pl.concat([pl.Series(NUMBERS), pl.Series(NUMBERS)], rechunk=False),
}


@pytest.mark.parametrize("case", VALUES)
def test_first_rows_match_a_dictionary(case):
    rows = {}
    expected = [rows.setdefault(value, row) for row, value in enumerate(VALUES[case].to_list())]
    assert first_rows(VALUES[case]).tolist() == expected
