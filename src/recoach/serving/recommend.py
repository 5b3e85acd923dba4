"""Lists of items for users, known or new, with external ids on both sides."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from recoach.data.batches import Seen, histories, user_queries
from recoach.data.interactions import LongArray
from recoach.data.split import Dataset, RaggedArray
from recoach.errors import ConfigError, DataError
from recoach.evaluation.ranking import BLOCK_SIZE, TopItems, top_items
from recoach.models.base import Recommender, eval_mode
from recoach.serving.index import Index, nearest

_AT_ONCE = 1024
_FOLD_IN = 50
"""Last items by which a model that reads no history learns to know a new user."""


def recommend(
    model: Recommender,
    dataset: Dataset,
    users: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    *,
    k: int = 10,
    exclude_seen: bool = True,
    candidates: Sequence[str] | None = None,
) -> pl.DataFrame:
    """Return the k best items of each user after all that is known of them.

    Args:
        model: any recommender.
        dataset: gives the ids and the histories of its users.
        users: external ids of known users, or new users as `{id: [item ids, oldest first]}`;
            None asks for everybody.
        k: list length.
        exclude_seen: leave out what the user has taken.
        candidates: item ids to choose among, such as what is in stock; None for the catalogue.

    Returns:
        A frame user_id, rank (from 1), item_id, score, a user's rows together. Items of a new
        user's history, and candidates, that the catalogue does not hold are skipped.

    Raises:
        ConfigError: k below 1.
        DataError: a user is not in the dataset, a new user has no known item, or no candidate is
            known.
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
    among = None if candidates is None else known_items(dataset, candidates)
    parts = [
        ranked(model, Asked(past, rows[part], numbers[part], exclude_seen), k, among)
        for part in (slice(at, at + _AT_ONCE) for at in range(0, len(rows), _AT_ONCE))
    ]
    return _frame(dataset, names, parts)


class Asked(NamedTuple):
    """Whom lists are for."""

    past: RaggedArray
    """Histories, oldest first."""
    rows: LongArray
    """int64[B] row of `past`."""
    users: LongArray
    """int64[B] number of the user, -1 for a new one."""
    exclude_seen: bool | npt.NDArray[np.bool_]
    """Whether to leave out what is in the history; one for all, or bool[B]."""


@torch.no_grad()
def ranked(
    model: Recommender,
    asked: Asked,
    k: int,
    candidates: LongArray | None = None,
    *,
    block_size: int = BLOCK_SIZE,
    index: Index | None = None,
) -> TopItems:
    """Return the k best items after each of these histories, in the numbers of the dataset.

    Args:
        model: any recommender.
        asked: whom for.
        k: list length.
        candidates: int64[C] sorted distinct items to choose among; None for the catalogue.
        block_size: see `top_items`.
        index: of the model's item vectors, searched instead of the whole catalogue.
    """
    past, rows, users, exclude_seen = asked
    length = model.history_length or _FOLD_IN
    queries = user_queries(past, rows, length, model.n_items, mask_seen=bool(np.any(exclude_seen)))
    queries = replace(queries, users=torch.from_numpy(users)).to(model.device)
    seen = queries.seen
    if seen is not None and not isinstance(exclude_seen, bool):
        kept = torch.from_numpy(exclude_seen).to(model.device)[seen.states]
        seen = Seen(seen.states[kept], seen.items[kept])
    with eval_mode(model):
        vectors, items = model.embed(queries)
    if candidates is None and index is not None:
        return nearest(index, vectors, k, seen)
    if candidates is None:
        return top_items(vectors, items, k, seen, block_size=block_size)
    among = torch.from_numpy(candidates).to(model.device)
    few = top_items(vectors, items[among], k, seen and _within(seen, among), block_size=block_size)
    return TopItems(among[few.items].masked_fill(few.items < 0, -1), few.scores)


def known_items(dataset: Dataset, items: Sequence[str]) -> LongArray:
    """Return the sorted distinct numbers of those items that the catalogue holds.

    Raises:
        DataError: it holds none of them.
    """
    wanted = pl.Series([str(item) for item in items], dtype=pl.String)
    numbers = np.flatnonzero(dataset.item_ids.is_in(wanted.implode()).to_numpy())
    if not len(numbers):
        raise DataError(
            f"None of the {len(wanted)} candidates is in the catalogue of "
            f"{dataset.name or 'the dataset'}; check that the ids are those of the log."
        )
    return numbers.astype(np.int64)


def _within(seen: Seen, among: Tensor) -> Seen:
    """Return the seen pairs whose items are candidates, by their places among these."""
    place = torch.searchsorted(among, seen.items).clamp(max=len(among) - 1)
    kept = among[place] == seen.items
    return Seen(seen.states[kept], place[kept])


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


def _new_histories(dataset: Dataset, users: Mapping[str, Sequence[str]]) -> RaggedArray:
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
    return RaggedArray(offsets, values)
