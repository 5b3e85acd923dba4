"""Evaluate a recommender by full ranking of held-out items."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from recoach import distributed
from recoach.data.batches import Split, histories, user_queries
from recoach.data.split import Dataset, RaggedArray
from recoach.errors import ConfigError, DataError
from recoach.evaluation.metrics import TargetRanks, metrics_per_user
from recoach.evaluation.model_scores import model_scores
from recoach.evaluation.ranking import ranks_of_scores, top_of_scores
from recoach.models.base import Recommender, eval_mode

MaskSeen = Literal["all", "recbole", "none"]
"""Mask items of a user's history: always, only if the model reads no history (RecBole), never."""

KS = (1, 5, 10, 50)
"""List lengths k of the metrics, unless others are given."""
_USERS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Ranks and per-user metrics of one model on the held-out items of a split."""

    users: np.ndarray
    """int64[B], the evaluated users, each with at least one held-out item."""
    ranks: np.ndarray
    """int64[N], rank of each held-out item from 1, in the order of `users`."""
    metrics: dict[str, np.ndarray]
    """`"ndcg@10"` -> float64[B], one value per user."""
    protocol: dict[str, object]
    """How the metrics were computed; saved together with them in every results file."""

    def means(self) -> dict[str, float]:
        """Return the average of every metric over users."""
        return {name: float(values.mean()) for name, values in self.metrics.items()}

    def __repr__(self) -> str:
        means = ", ".join(f"{name}={value:.4f}" for name, value in self.means().items())
        return f"Evaluation({len(self.users)} users, {self.protocol['split']}: {means})"


def masks_seen(mask_seen: MaskSeen, model: Recommender) -> bool:
    """Return whether the protocol masks seen items for this model.

    `"recbole"` masks them for models that read no history and not for sequential ones, as the
    data loaders of RecBole and of the GSAU authors do.
    """
    return mask_seen == "all" or (mask_seen == "recbole" and model.history_length == 0)


@torch.no_grad()
def evaluate(
    model: Recommender,
    dataset: Dataset,
    split: Split = "test",
    *,
    ks: Sequence[int] = KS,
    mask_seen: MaskSeen = "all",
    users: np.ndarray | None = None,
) -> Evaluation:
    """Rank all items for every user with a held-out item and return per-user metrics.

    Args:
        model: any recommender; in evaluation mode during the call, restored afterwards.
        dataset: the split log.
        split: `"valid"` (history: train) or `"test"` (history: train and valid).
        ks: list lengths.
        mask_seen: whether to mask the items of a user's history; targets are never masked.
        users: int64[B], the users to evaluate (default: all users with a held-out item).

    Raises:
        ConfigError: `ks` is empty or holds a value below 1.
        DataError: no user has a held-out item in this split.
        ModelError: the model returns non-finite vectors or scores.
    """
    if not ks or min(ks) < 1:
        raise ConfigError(f"ks must be list lengths of at least 1, not {tuple(ks)}.")
    held_out = dataset.valid if split == "valid" else dataset.test
    users = np.flatnonzero(held_out.lengths > 0) if users is None else np.asarray(users)
    users = users[held_out.lengths[users] > 0]
    if len(users) == 0:
        raise DataError(
            f"No user of {dataset.name or 'the dataset'} has an item in {split}. Evaluate on "
            "another split or with other users."
        )
    mask = masks_seen(mask_seen, model)
    ranks = _ranks_of_users(model, histories(dataset, split), held_out, users, mask=mask)
    counts = held_out.lengths[users]
    states = np.repeat(np.arange(len(users)), counts)
    items = np.concatenate([held_out.row(int(user)) for user in users])
    targets = TargetRanks(ranks, states, counts, items)
    protocol: dict[str, object] = {
        "split": split,
        "ranking": "full",
        "n_items": dataset.n_items,
        "mask_seen": mask_seen,
        "seen_masked_for_this_model": mask,
        "ties": "against the model",
        "n_users": len(users),
        "ks": list(ks),
    }
    return Evaluation(users, ranks, metrics_per_user(targets, ks), protocol)


@torch.no_grad()
def top_lists(
    model: Recommender,
    dataset: Dataset,
    users: np.ndarray,
    k: int,
    *,
    split: Split = "test",
    mask_seen: MaskSeen = "all",
) -> np.ndarray:
    """Return the top-k lists of users, given their histories before a split.

    Args:
        model: any recommender; in evaluation mode during the call, restored afterwards.
        dataset: the split log.
        users: int64[B], indices of the users.
        k: list length.
        split: `"valid"` (history: train) or `"test"` (history: train and valid).
        mask_seen: whether to mask the items of a user's history.

    Returns:
        int64[B, k], items, best first; a list of fewer than k items is padded with -1.
    """
    past, mask = histories(dataset, split), masks_seen(mask_seen, model)
    rows = np.full((len(users), 1 + k), -1, dtype=np.int64)  # position in `users`, then the list
    rows[:, 0] = np.arange(len(users))
    is_local = np.zeros(len(users), dtype=np.bool_)
    starts = range(0, len(users), _USERS_AT_ONCE)
    with eval_mode(model):
        for start in starts[distributed.rank_slice()]:
            part = slice(start, start + _USERS_AT_ONCE)
            is_local[part] = True
            queries = user_queries(
                past, users[part], model.history_length, model.n_items, mask_seen=mask
            ).to(model.device)
            items = top_of_scores(model_scores(model, queries), k, queries.seen).items.cpu().numpy()
            rows[part, 1 : 1 + items.shape[1]] = items
    all_rows = distributed.all_gather(torch.from_numpy(rows[is_local])).numpy()
    return np.ascontiguousarray(all_rows[np.argsort(all_rows[:, 0]), 1:])


def _ranks_of_users(
    model: Recommender, past: RaggedArray, held_out: RaggedArray, users: np.ndarray, *, mask: bool
) -> np.ndarray:
    """Return int64[N], the ranks of all held-out items of the users, in the order of `users`.

    Users are sorted by history length and cut into batches, which keeps the padding short. The
    batches are distributed over the data-parallel processes and the results gathered.
    """
    order = np.argsort(past.lengths[users], kind="stable")
    batches = np.split(order, range(_USERS_AT_ONCE, len(order), _USERS_AT_ONCE))
    local_batches = batches[distributed.rank_slice()]
    with eval_mode(model):
        local_ranks = [
            _ranks_of_batch(model, past, held_out, users[batch], mask=mask)
            for batch in local_batches
        ]
    empty = order[:0]  # a process may have no batch
    local_order = np.concatenate([empty, *local_batches])
    index = np.repeat(local_order, held_out.lengths[users[local_order]])
    pairs = torch.from_numpy(np.stack([index, np.concatenate([empty, *local_ranks])], axis=1))
    index, ranks = distributed.all_gather(pairs).numpy().T
    return np.ascontiguousarray(ranks[np.argsort(index, kind="stable")])


def _ranks_of_batch(
    model: Recommender, past: RaggedArray, held_out: RaggedArray, users: np.ndarray, *, mask: bool
) -> np.ndarray:
    """Return int64[N], the ranks of the held-out items of one batch of users."""
    queries = user_queries(past, users, model.history_length, model.n_items, mask_seen=mask)
    queries = queries.to(model.device)
    scores = model_scores(model, queries, check_finite=True)
    rows = np.repeat(np.arange(len(users)), held_out.lengths[users])
    row_starts = held_out.offsets[users][rows]
    index_in_row = np.arange(len(rows)) - np.searchsorted(rows, rows)
    target_items = torch.from_numpy(held_out.values[row_starts + index_in_row].astype(np.int64))
    targets = (torch.from_numpy(rows).to(model.device), target_items.to(model.device))
    return ranks_of_scores(scores, targets, queries.seen).cpu().numpy()
