"""Lists of items for users, known or new, with external ids on both sides."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import torch

from recoach.data.batch import histories, user_queries
from recoach.data.split import Dataset, Ragged
from recoach.errors import ConfigError, DataError
from recoach.evaluation.ranking import TopItems, top_items
from recoach.models.base import Recommender, judging

_AT_ONCE = 1024
_FOLD_IN = 50
"""Last items by which a model that reads no history learns to know a new user."""


@torch.no_grad()
def recommend(
    model: Recommender,
    dataset: Dataset,
    users: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    *,
    k: int = 10,
    exclude_seen: bool = True,
) -> pl.DataFrame:
    """Return the k best items of each user after all that is known of them.

    Args:
        model: any recommender.
        dataset: gives the ids and the histories of its users.
        users: external ids of known users, or new users as `{id: [item ids, oldest first]}`;
            None asks for everybody.
        k: list length.
        exclude_seen: leave out what the user has taken.

    Returns:
        A frame user_id, rank (from 1), item_id, score, a user's rows together. Items of a new
        user's history that the catalogue does not hold are skipped.

    Raises:
        ConfigError: k below 1.
        DataError: a user is not in the dataset, or a new user has no known item.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, not {k}.")
    if isinstance(users, Mapping):
        names, past = list(users), _new_histories(dataset, users)
        rows, numbers = np.arange(len(names)), np.full(len(names), -1)
    else:
        names = dataset.user_ids.to_list() if users is None else [str(user) for user in users]
        past = histories(dataset, "future")
        rows = numbers = _numbers(dataset, names)
    parts = []
    for start in range(0, len(rows), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        length = model.history_length or _FOLD_IN
        queries = user_queries(past, rows[part], length, model.n_items, mask_seen=exclude_seen)
        queries = replace(queries, users=torch.from_numpy(numbers[part])).to(model.device)
        with judging(model):
            vectors, items = model.embed(queries)
        parts.append(top_items(vectors, items, k, queries.seen))
    return _frame(dataset, names, parts)


def _frame(dataset: Dataset, names: list[str], parts: list[TopItems]) -> pl.DataFrame:
    schema = {"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String, "score": pl.Float32}
    if not parts:
        return pl.DataFrame(schema=schema)
    items = torch.cat([part.items for part in parts]).cpu().numpy()
    scores = torch.cat([part.scores for part in parts]).cpu().numpy()
    rows, places = np.nonzero(items >= 0)
    columns = {
        "user_id": pl.Series(names, dtype=pl.String).gather(rows),
        "rank": places + 1,
        "item_id": dataset.item_ids.gather(items[rows, places]),
        "score": scores[rows, places],
    }
    return pl.DataFrame(columns, schema=schema)


def _numbers(dataset: Dataset, names: list[str]) -> np.ndarray:
    known = {name: number for number, name in enumerate(dataset.user_ids.to_list())}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(
            f"User {unknown[0]!r} is not in {dataset.name or 'the dataset'} ({len(unknown)} of "
            f"{len(names)} are not); give new users with their histories."
        )
    return np.array([known[name] for name in names], dtype=np.int64)


def _new_histories(dataset: Dataset, users: Mapping[str, Sequence[str]]) -> Ragged:
    known = {name: number for number, name in enumerate(dataset.item_ids.to_list())}
    rows = [[known[str(item)] for item in taken if str(item) in known] for taken in users.values()]
    for name, row in zip(users, rows, strict=True):
        if not row:
            raise DataError(
                f"No item in the history of user {name!r} is in the catalogue of "
                f"{dataset.name or 'the dataset'}; check that the ids are those of the log."
            )
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    values = np.array([item for row in rows for item in row], dtype=np.int32)
    return Ragged(offsets, values)
