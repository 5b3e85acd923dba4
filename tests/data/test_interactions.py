"""Ids are numbered by first appearance."""

import numpy as np
import polars as pl
import pytest

from recoach.data.interactions import encode_ids

NUMBERS = np.random.default_rng(0).integers(0, 4000, 5000)
VALUES = {
    "none": pl.Series([], dtype=pl.String),
    "one": pl.Series(["a"]),
    "empty text": pl.Series(["a", "", "a"]),
    "all equal": pl.Series(["a"] * 9),
    "all distinct": pl.Series([f"{n}" for n in range(3000)]),
    "short text": pl.Series(NUMBERS).cast(pl.String),
    "long text": pl.Series([f"a customer with the number {n}" for n in NUMBERS]),
    "whole numbers": pl.Series(NUMBERS - 2000),
    "in chunks": pl.concat([pl.Series(NUMBERS), pl.Series(NUMBERS)], rechunk=False),
}


@pytest.mark.parametrize("case", VALUES)
def test_numbers_match_a_dictionary(case):
    numbers = {}
    expected = [numbers.setdefault(str(value), len(numbers)) for value in VALUES[case].to_list()]
    codes, ids = encode_ids(VALUES[case])
    assert codes.dtype == np.int32
    assert codes.tolist() == expected
    assert ids.to_list() == list(numbers)
