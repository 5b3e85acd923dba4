"""Items without events get vectors from their content."""

import builtins
import sys

import numpy as np
import polars as pl
import pytest
import torch

from recoach.models.content import content_matrix, predicted_rows


def table(**columns):
    n_items = len(next(iter(columns.values())))
    return pl.DataFrame({"item_id": [f"i{n}" for n in range(n_items)], **columns})


def test_without_content_there_is_no_prediction():
    assert content_matrix(None) is None
    assert content_matrix(table(added=pl.Series([None, None], dtype=pl.Date))) is None


def test_vectors_numbers_and_categories_are_content():
    frame = table(
        vector=[[1.0, 2.0], [3.0, 4.0], None, [5.0, 6.0]],
        price=[1.0, None, 3.0, 5.0],
        genre=["a", "b", "a", None],
        tags=[["p", "q"], [], ["q"], None],
    )
    matrix = content_matrix(frame).toarray()
    assert matrix.shape == (4, 2 + 1 + 2 + 2)
    assert np.allclose(matrix[2, :2], 0)  # missing: the mean
    assert np.allclose(matrix[:, 2].sum(), 0)
    assert matrix[:, 3].tolist() == [1, 0, 1, 0]  # a, the most frequent
    assert matrix[:, 5].tolist() == [1, 0, 1, 0]  # q


def test_text_is_weighted_by_tf_idf():
    pytest.importorskip("sklearn")
    titles = ["red shoe", "blue shoe", "red hat", "green hat", "blue hat", "old lamp"]
    matrix = content_matrix(table(title=titles)).toarray()
    assert matrix.shape == (6, 7)
    assert np.allclose((matrix**2).sum(axis=1), 1)


def test_text_without_scikit_learn_says_what_to_install(monkeypatch, caplog):
    load = builtins.__import__

    def without(name, *rest):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in [name for name in sys.modules if name.startswith("sklearn")]:
        monkeypatch.delitem(sys.modules, name)
    assert content_matrix(table(title=[f"word{n} shoe" for n in range(9)])) is None
    assert "column 'title'" in caplog.text
    assert "pip install 'recoach[content]'" in caplog.text


def test_ridge_recovers_a_linear_map_and_chooses_a_small_penalty():
    generator = np.random.default_rng(0)
    content = generator.normal(size=(200, 5))
    rows = content @ generator.normal(size=(5, 3)) + 0.5
    trained = np.arange(150) < 140
    result = predicted_rows(table(vector=content.tolist()), torch.from_numpy(rows[:150]), trained)
    assert np.abs(result.rows[140:].numpy() - rows[140:]).max() < 1e-2


def test_noise_gets_a_large_penalty_and_the_mean_is_predicted():
    generator = np.random.default_rng(0)
    content, rows = generator.normal(size=(60, 20)), generator.normal(size=(60, 4))
    trained = np.ones(50, dtype=bool)
    result = predicted_rows(table(vector=content.tolist()), torch.from_numpy(rows[:50]), trained)
    spread = (result.rows[50:] - torch.from_numpy(rows[:50].mean(axis=0))).abs().max()
    assert spread < 0.5


def test_items_without_content_are_not_predicted():
    content = [[n + 0.5, 1.0 - n * n] for n in range(20)]
    frame = table(vector=[*content[:19], None])
    result = predicted_rows(frame, torch.randn(20, 2), np.ones(20, dtype=bool))
    assert result.has_content.tolist() == [True] * 19 + [False]
