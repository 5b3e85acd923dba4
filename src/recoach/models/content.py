"""Vectors of items from their content: what a table of items says about an item without events.

The vectors of items that a model was trained on are regressed on their content (ridge regression
in closed form, as in Gantner et al. 2010, "Learning attribute-to-feature mappings for cold-start
recommendations"); those of other items are predicted.
"""

import logging
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from scipy import sparse
from torch import Tensor

from recoach.data.dataset import Dataset
from recoach.models.base import DotProductRecommender, Recommender

_LOG = logging.getLogger(__name__)
BoolArray = npt.NDArray[np.bool_]
_MAX_WORDS, _MAX_CATEGORIES = 2000, 500
_ALPHAS = tuple(10.0**power for power in range(-2, 5))
_TEXT = (pl.String, pl.Categorical, pl.Enum)
_VALIDATION_SHARE = 0.1
_MIN_ITEMS = 10
"""Fewest trained items to fit a regression on."""


class Prediction(NamedTuple):
    """Rows of items, predicted from their content."""

    has_content: BoolArray
    """bool[I]."""
    rows: Tensor
    """float[I, D]; of no use for items without content."""


def content_matrix(item_table: pl.DataFrame | None) -> sparse.csr_matrix | None:
    """Return the content of items as numbers, float64[I, F]; None if there is none.

    A column of vectors (List or Array of numbers) gives its numbers, a number gives itself, both
    standardised; text of few different values and lists of text give an indicator for each of the
    500 most frequent values; other text gives TF-IDF weights of its 2,000 most frequent words,
    and without scikit-learn is left out with a warning. An item has zeros where a value is missing.
    """
    if item_table is None:
        return None
    parts = [
        part
        for name in item_table.columns
        if name != "item_id" and (part := _column(item_table[name])) is not None
    ]
    return sparse.hstack(parts).tocsr() if parts else None


def _column(values: pl.Series) -> sparse.csr_matrix | None:
    dtype = values.dtype
    if isinstance(dtype, pl.Array):
        values, dtype = values.arr.to_list(), pl.List(dtype.inner)
    if isinstance(dtype, pl.List):
        if dtype.inner is not None and dtype.inner.is_numeric():
            return _vectors(values)
        return _indicators(values) if dtype.inner == pl.String else None
    if dtype == pl.Boolean or dtype.is_numeric():
        return _numbers(values.cast(pl.Float64))
    return _texts(values.cast(pl.String)) if dtype in _TEXT else None


def _texts(values: pl.Series) -> sparse.csr_matrix | None:
    """Return indicators of a column of categories, or weights of the words of other text."""
    if values.n_unique() > max(2, min(_MAX_CATEGORIES, len(values) // 3)):
        return _words(values)
    frame = pl.DataFrame({"value": values})
    is_value = pl.col("value").is_not_null()
    return _indicators(frame.select(pl.when(is_value).then(pl.concat_list("value")))["value"])


def _numbers(values: pl.Series) -> sparse.csr_matrix:
    return _standardised(values.fill_nan(None).to_numpy().astype(np.float64)[:, None])


def _vectors(values: pl.Series) -> sparse.csr_matrix | None:
    """Return vectors of the most frequent length; null and others are missing."""
    lengths = values.list.len().drop_nulls()
    length = lengths.filter(lengths > 0).mode().min() if len(lengths) else None
    if length is None:
        return None
    is_vector = (values.list.len() == length).fill_null(value=False).to_numpy()
    matrix = np.full((len(values), int(str(length))), np.nan)
    flat = values.filter(pl.Series(is_vector)).explode().cast(pl.Float64).to_numpy()
    matrix[is_vector] = flat.reshape(-1, matrix.shape[1])
    return _standardised(matrix)


def _standardised(matrix: npt.NDArray[np.float64]) -> sparse.csr_matrix:
    is_number = np.isfinite(matrix)
    counts = np.maximum(1, is_number.sum(axis=0))
    filled = np.where(is_number, matrix, 0)
    centred = np.where(is_number, matrix - filled.sum(axis=0) / counts, 0)
    deviation = np.sqrt((centred**2).sum(axis=0) / counts)
    return sparse.csr_matrix(centred / np.where(deviation > 0, deviation, 1))


def _indicators(values: pl.Series) -> sparse.csr_matrix | None:
    pairs = pl.DataFrame({"value": values}).with_row_index("item").explode("value").drop_nulls()
    pairs = pairs.unique(maintain_order=True)
    if not len(pairs):
        return None
    counts = pairs.group_by("value").len().sort(["len", "value"], descending=[True, False])
    kept = counts.head(_MAX_CATEGORIES).select("value").with_row_index("column")
    joined = pairs.join(kept, on="value", how="inner")
    ones = np.ones(len(joined))
    places = (joined["item"].to_numpy(), joined["column"].to_numpy())
    return sparse.csr_matrix((ones, places), shape=(len(values), len(kept)))


def _words(values: pl.Series) -> sparse.csr_matrix | None:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 (an extra)
    except ImportError:
        _LOG.warning(
            "The text in column %r of the table of items is not used, because scikit-learn is not "
            "installed: pip install 'recoach[content]'.",
            values.name,
        )
        return None
    texts = values.fill_null("").to_list()
    vectorizer = TfidfVectorizer(max_features=_MAX_WORDS, token_pattern=r"(?u)\b\w+\b")
    if not any(any(letter.isalnum() for letter in text) for text in texts):
        return None
    return sparse.csr_matrix(vectorizer.fit_transform(texts))


def predicted_rows(
    item_table: pl.DataFrame | None, table: Tensor, trained: BoolArray, seed: int = 0
) -> Prediction | None:
    """Return rows of all items, predicted from content by ridge regression on the trained items.

    The weight of the penalty is the one with the least squared error on a tenth of the trained
    items, from 0.01 to 10,000.

    Args:
        item_table: see `Dataset.item_table`; I rows.
        table: float[n, ...] rows of the first n items.
        trained: bool[n], the items whose rows were trained.
        seed: draws the tenth.

    Returns:
        None without content, or with fewer than 10 trained items that have content.
    """
    content = content_matrix(item_table)
    if content is None:
        return None
    has_content = np.diff(content.indptr) > 0
    items = np.flatnonzero(trained & has_content[: len(trained)])
    if len(items) < _MIN_ITEMS:
        return None
    values = table.detach().reshape(len(table), -1).double().cpu().numpy()
    items = np.random.default_rng(seed).permutation(items)
    n_valid = max(1, int(len(items) * _VALIDATION_SHARE))
    valid, fitted = items[:n_valid], items[n_valid:]
    errors = [
        ((_centred(content[valid], ridge) - values[valid]) ** 2).sum()
        for ridge in _ridges(content[fitted], values[fitted], _ALPHAS)
    ]
    alpha = _ALPHAS[int(np.argmin(errors))]
    (best,) = _ridges(content[items], values[items], (alpha,))
    rows = torch.from_numpy(_centred(content, best)).to(table)
    return Prediction(has_content, rows.reshape(-1, *table.shape[1:]))


class _Ridge(NamedTuple):
    weights: npt.NDArray[np.float64]
    content_mean: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]


def _ridges(
    content: sparse.csr_matrix, values: npt.NDArray[np.float64], alphas: tuple[float, ...]
) -> list[_Ridge]:
    """Return W = (X'X + alpha I)^-1 X'Y of centred X and Y for each alpha."""
    n_items = content.shape[0]
    content_mean = np.asarray(content.mean(axis=0)).ravel()
    mean = values.mean(axis=0)
    gram = (content.T @ content).toarray() - n_items * np.outer(content_mean, content_mean)
    product = content.T @ (values - mean)
    eigenvalues, vectors = np.linalg.eigh(gram)
    projected = vectors.T @ product
    scale = np.maximum(eigenvalues, 0)[:, None]
    return [_Ridge(vectors @ (projected / (scale + alpha)), content_mean, mean) for alpha in alphas]


def _centred(content: sparse.csr_matrix, ridge: _Ridge) -> npt.NDArray[np.float64]:
    result: npt.NDArray[np.float64] = (
        content @ ridge.weights - ridge.content_mean @ ridge.weights + ridge.mean
    )
    return result


@torch.no_grad()
def place_cold_items(model: Recommender, dataset: Dataset) -> BoolArray:
    """Replace the vectors of items without training events by those that content predicts.

    Args:
        model: changed in place, if its scores are dot products with a table of items.
        dataset: `train` says which items have events, `item_table` what is known about them.

    Returns:
        bool[I], which items were placed; none for another model, or without content.
    """
    trained = np.bincount(dataset.train.values, minlength=dataset.n_items) > 0
    none = np.zeros(dataset.n_items, dtype=np.bool_)
    tables = model.parameter_groups().get("item", []) if model.needs else []
    if not isinstance(model, DotProductRecommender) or len(tables) != 1 or trained.all():
        return none
    table = tables[0]
    if len(table) not in (dataset.n_items, dataset.n_items + 1):
        return none
    predicted = predicted_rows(dataset.item_table, table[: dataset.n_items], trained)
    if predicted is None:
        return none
    placed = predicted.has_content & ~trained
    rows = torch.from_numpy(np.flatnonzero(placed)).to(table.device)
    table[rows] = predicted.rows[rows]
    return placed
