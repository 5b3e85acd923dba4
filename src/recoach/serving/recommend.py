"""Top-k lists as a table, for users of the log or for new users, with external IDs."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from recoach.data.dataset import Dataset, RaggedArray
from recoach.data.interactions import LongArray
from recoach.data.queries import Seen, histories, join_pairs, seen_before, user_queries
from recoach.errors import ConfigError, DataError
from recoach.evaluation.model_scores import model_scores
from recoach.evaluation.ranking import BLOCK_SIZE, TopItems, top_of_scores
from recoach.models.base import Recommender, check_ids, dot_product, eval_mode
from recoach.serving.index import Index, search_index

Ids = str | int | Iterable[str | int]
"""One external id, or several."""
Users = Ids | Mapping[Any, Ids] | None
"""Ids of known users, or new users as `{id: [item ids, oldest first]}`; None for all users."""
_BATCH_SIZE = 1024
_NEW_USER_HISTORY_LENGTH = 50
"""Last items from which a model that reads no history represents a new user."""


def recommend(
    model: Recommender,
    dataset: Dataset,
    users: Users = None,
    *,
    k: int = 10,
    exclude_seen: bool = True,
    candidates: Ids | None = None,
) -> pl.DataFrame:
    """Return the k best items of each user, given the user's whole history.

    Args:
        model: any recommender.
        dataset: has the IDs and the histories of its users.
        users: the external ID of a known user, or several, or new users as
            `{id: [item ids, oldest first]}`; None stands for all users of the dataset.
        k: maximum length of a list.
        exclude_seen: exclude items of the user's history.
        candidates: item IDs to choose from, such as the items in stock; None for the whole
            catalogue.

    Returns:
        A polars frame with columns user_id, rank (from 1), item_id and score; the rows of a user
        are consecutive; `.to_pandas()` converts it. The ids have the types of the log (text where
        it has text, or where the ids of new users are no numbers). Items of a new user's history
        and candidates that are not in the catalogue are skipped.

    Raises:
        ConfigError: k is below 1.
        DataError: a user is not in the dataset, or no item of a new user's history or no candidate
            is in the catalogue.
        ModelError: the model was built for other users or items.
    """
    user_ids, batches = user_batches(model, dataset, users, k, exclude_seen=exclude_seen)
    allowed = None if candidates is None else candidate_indices(dataset, candidates)
    return to_frame(dataset, user_ids, [rank_items(model, one, k, allowed) for one in batches])


def user_batches(
    model: Recommender, dataset: Dataset, users: Users, k: int, *, exclude_seen: bool
) -> tuple[list[str], list["UserBatch"]]:
    """Return the IDs of users and the batches that `recommend` ranks for them.

    Args:
        model: any recommender.
        dataset: see `recommend`.
        users: see `recommend`.
        k: list length, which is only checked.
        exclude_seen: see `recommend`.

    Raises:
        ConfigError: k is below 1.
        DataError: see `recommend`.
        ModelError: the model was built for other users or items.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, not {k}.")
    check_ids(model, dataset)
    if isinstance(users, Mapping):
        user_ids, past = [str(user) for user in users], _new_user_histories(dataset, users)
        if model.reads:
            warnings.warn(
                f"The model reads {' and '.join(model.reads)} of histories, and those of new users "
                "have items only: lists can differ from those of known users with the same items.",
                stacklevel=3,
            )
        rows, user_indices = np.arange(len(user_ids)), np.full(len(user_ids), -1)
        rejected = None
    else:
        user_ids = dataset.user_ids.to_list() if users is None else _as_ids(users)
        past = histories(dataset, "all", model.reads)
        rows = _user_indices(dataset, user_ids)
        user_indices = dataset.trained_users[rows]
        rejected = dataset.negatives and dataset.negatives.take_rows(rows)
    batches = []
    for start in range(0, len(rows), _BATCH_SIZE):
        of_batch = slice(start, start + _BATCH_SIZE)
        part = rejected and rejected.take_rows(np.arange(len(rows))[of_batch])
        batches.append(UserBatch(past, rows[of_batch], user_indices[of_batch], exclude_seen, part))
    return user_ids, batches


class UserBatch(NamedTuple):
    """The users that one call ranks items for."""

    histories: RaggedArray
    """Item indices, oldest first."""
    rows: LongArray
    """int64[B], row of each user in `histories`."""
    users: LongArray
    """int64[B], user index; -1 for a new user."""
    exclude_seen: bool | npt.NDArray[np.bool_]
    """Whether to exclude items of the history; one value for all users, or bool[B]."""
    rejected: RaggedArray | None = None
    """Items that each user rejected, B rows, which are always excluded."""


@torch.no_grad()
def rank_items(
    model: Recommender,
    batch: UserBatch,
    k: int,
    candidates: LongArray | None = None,
    *,
    block_size: int = BLOCK_SIZE,
    index: Index | None = None,
) -> TopItems:
    """Return the k best items of each user in the batch, as dataset indices.

    Args:
        model: any recommender.
        batch: B users with their histories.
        k: maximum length of a list.
        candidates: int64[C], sorted distinct items to choose from; None for the whole catalogue.
        block_size: states scored together, see `top_of_scores`.
        index: faiss index of the item vectors of a `DotProductRecommender`, searched instead of
            scoring all items; not used with candidates.
    """
    past, rows, users, exclude_seen, rejected = batch
    length = model.history_length or _NEW_USER_HISTORY_LENGTH
    queries = user_queries(past, rows, length, model.n_items, mask_seen=bool(np.any(exclude_seen)))
    queries = replace(queries, users=torch.from_numpy(users)).to(model.device)
    if queries.seen is not None and not isinstance(exclude_seen, bool):
        is_excluded = torch.from_numpy(exclude_seen).to(model.device)[queries.seen.states]
        states, items = queries.seen[:2]
        queries = replace(queries, seen=Seen(states[is_excluded], items[is_excluded]))
    if rejected is not None:
        pairs = seen_before(rejected.values, rejected.offsets[:-1], rejected.offsets[1:])
        excluded = pairs if queries.seen is None else join_pairs(queries.seen.to("cpu"), pairs)
        queries = replace(queries, seen=excluded.to(model.device))
    allowed = None if candidates is None else torch.from_numpy(candidates).to(model.device)
    with eval_mode(model):
        if allowed is None and index is not None:
            user_vectors = dot_product(model, "A faiss index").embed(queries).users
            return search_index(index, user_vectors, k, queries.seen)
        seen = _seen_candidates(queries.seen, allowed)
        top = top_of_scores(model_scores(model, queries, allowed), k, seen, block_size=block_size)
    if allowed is None:
        return top
    return TopItems(allowed[top.items].masked_fill(top.items < 0, -1), top.scores)


def candidate_indices(dataset: Dataset, item_ids: Ids) -> LongArray:
    """Return the sorted distinct indices of those item IDs that are in the catalogue.

    Raises:
        DataError: none of them is.
    """
    requested = pl.Series(_as_ids(item_ids), dtype=pl.String)
    indices = np.flatnonzero(dataset.item_ids.is_in(requested.implode()).to_numpy())
    if not len(indices):
        raise DataError(
            f"None of the {len(requested)} candidates is in the catalogue of "
            f"{dataset.name or 'the dataset'}. Check that the IDs are those of the log."
        )
    return indices.astype(np.int64)


def _seen_candidates(seen: Seen | None, candidates: Tensor | None) -> Seen | None:
    """Return the seen pairs whose items are candidates, with positions among the candidates."""
    if seen is None or candidates is None:
        return seen
    position = torch.searchsorted(candidates, seen.items).clamp(max=len(candidates) - 1)
    is_candidate = candidates[position] == seen.items
    return Seen(seen.states[is_candidate], position[is_candidate])


def to_frame(dataset: Dataset, user_ids: list[str], results: list[TopItems]) -> pl.DataFrame:
    """Return the lists of users as the table of `recommend`."""
    users = dataset.id_types.users_of(pl.Series(user_ids, dtype=pl.String))
    catalogue = dataset.id_types.items_of(dataset.item_ids)
    schema = {
        "user_id": users.dtype,
        "rank": pl.Int32(),
        "item_id": catalogue.dtype,
        "score": pl.Float32(),
    }
    if not results:
        return pl.DataFrame(schema=schema)
    items = torch.cat([result.items for result in results]).cpu().numpy()
    scores = torch.cat([result.scores for result in results]).cpu().numpy()
    rows, positions = np.nonzero(items >= 0)
    columns = {
        "user_id": users.gather(rows),
        "rank": positions + 1,
        "item_id": catalogue.gather(items[rows, positions]),
        "score": scores[rows, positions],
    }
    return pl.DataFrame(columns, schema=schema)


def _user_indices(dataset: Dataset, user_ids: list[str]) -> np.ndarray:
    index_of = {user_id: index for index, user_id in enumerate(dataset.user_ids.to_list())}
    unknown = [user_id for user_id in user_ids if user_id not in index_of]
    if unknown:
        raise DataError(
            f"User {unknown[0]!r} is not in {dataset.name or 'the dataset'} ({len(unknown)} of "
            f"{len(user_ids)} are not). Pass new users together with their histories."
        )
    return np.array([index_of[user_id] for user_id in user_ids], dtype=np.int64)


def _as_ids(ids: Ids) -> list[str]:
    """Return ids as text; text or a number is one id."""
    if isinstance(ids, str | int | np.integer):
        return [str(ids)]
    return [str(one) for one in ids]


def _new_user_histories(dataset: Dataset, users: Mapping[Any, Ids]) -> RaggedArray:
    index_of = {item_id: index for index, item_id in enumerate(dataset.item_ids.to_list())}
    rows = [
        [index_of[item] for item in _as_ids(history) if item in index_of]
        for history in users.values()
    ]
    for user_id, row in zip(users, rows, strict=True):
        if not row:
            raise DataError(
                f"No item in the history of user {user_id!r} is in the catalogue of "
                f"{dataset.name or 'the dataset'}. Check that the IDs are those of the log."
            )
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    values = np.array([item for row in rows for item in row], dtype=np.int32)
    return RaggedArray(offsets, values)
