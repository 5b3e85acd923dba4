"""Full ranking of held-out items by any recommender."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from recoach import distributed
from recoach.data.batches import Split, histories, user_queries
from recoach.data.split import Dataset, RaggedArray
from recoach.errors import ConfigError, DataError, ModelError
from recoach.evaluation.metrics import per_user
from recoach.evaluation.ranking import target_ranks, top_items
from recoach.models.base import Recommender, eval_mode

MaskSeen = Literal["all", "recbole", "none"]
"""Mask what a user has taken: always, only for models that read no history (RecBole), or never."""

KS = (1, 5, 10, 50)
_USERS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """How one model ranked the held-out items of each user."""

    users: np.ndarray
    """int64[B] the users who have a held-out item."""
    ranks: np.ndarray
    """int64[N] rank of each held-out item."""
    metrics: dict[str, np.ndarray]
    """`"ndcg@10"` -> float64[B], a value for each user."""
    protocol: dict[str, object]
    """What was measured and how; belongs beside the numbers wherever they go."""

    def means(self) -> dict[str, float]:
        """Return the average of every metric over users."""
        return {name: float(values.mean()) for name, values in self.metrics.items()}

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value:.4f}" for name, value in self.means().items())
        return f"Evaluation({len(self.users)} users, {self.protocol['split']}: {shown})"


def masks_seen(mask_seen: MaskSeen, model: Recommender) -> bool:
    """Return whether this model's seen items are masked under the protocol.

    `"recbole"` masks models that read no history and leaves sequential ones alone, as RecBole's
    and the GSAU authors' loaders do.
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
        model: any recommender; put into evaluation mode and back.
        dataset: the split log.
        split: `"valid"` (history: train) or `"test"` (history: train and valid).
        ks: list lengths.
        mask_seen: which seen items are out of the ranking; the target never is.
        users: int64[B] ask only for these (default: everybody with a target).

    Raises:
        ConfigError: a k below 1.
        DataError: nobody has a held-out item.
        ModelError: the model yields non-finite vectors.
    """
    if not ks or min(ks) < 1:
        raise ConfigError(f"ks must be list lengths of at least 1, not {tuple(ks)}.")
    held_out = dataset.valid if split == "valid" else dataset.test
    asked = np.flatnonzero(held_out.lengths > 0) if users is None else np.asarray(users)
    asked = asked[held_out.lengths[asked] > 0]
    if len(asked) == 0:
        raise DataError(f"No user of {dataset.name or 'the dataset'} has an item in {split}.")
    mask = masks_seen(mask_seen, model)
    ranks = _ranks_of_all(model, histories(dataset, split), held_out, asked, mask=mask)
    counts = held_out.lengths[asked]
    states = np.repeat(np.arange(len(asked)), counts)
    protocol: dict[str, object] = {
        "split": split,
        "ranking": "full",
        "n_items": dataset.n_items,
        "mask_seen": mask_seen,
        "seen_masked_for_this_model": mask,
        "ties": "against the model",
        "n_users": len(asked),
        "ks": list(ks),
    }
    return Evaluation(asked, ranks, per_user(ranks, states, counts, ks), protocol)


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
    """Return int64[B, k], what users would have been shown before a split, best first.

    Args:
        model: any recommender; put into evaluation mode and back.
        dataset: the split log.
        users: int64[B].
        k: list length; -1 fills a list that ends early.
        split: before which part they would have been shown.
        mask_seen: which seen items are out of the lists.
    """
    past, mask = histories(dataset, split), masks_seen(mask_seen, model)
    rows = np.full((len(users), 1 + k), -1, dtype=np.int64)  # whose list it is, and the list
    rows[:, 0] = np.arange(len(users))
    own = np.zeros(len(users), dtype=np.bool_)
    starts = range(0, len(users), _USERS_AT_ONCE)
    with eval_mode(model):
        for start in starts[distributed.data_rank() :: distributed.data_world_size()]:
            part = slice(start, start + _USERS_AT_ONCE)
            own[part] = True
            queries = user_queries(
                past, users[part], model.history_length, model.n_items, mask_seen=mask
            ).to(model.device)
            found = top_items(*model.embed(queries), k, queries.seen).items.cpu().numpy()
            rows[part, 1 : 1 + found.shape[1]] = found
    everybodys = distributed.all_gather(torch.from_numpy(rows[own])).numpy()
    return np.ascontiguousarray(everybodys[np.argsort(everybodys[:, 0]), 1:])


def _ranks_of_all(
    model: Recommender, past: RaggedArray, held_out: RaggedArray, users: np.ndarray, *, mask: bool
) -> np.ndarray:
    """Rank in parts of users with histories of like length, so that little is padding.

    Each process ranks some of the parts; a user is in one of them.
    """
    order = np.argsort(past.lengths[users], kind="stable")
    parts = np.split(order, range(_USERS_AT_ONCE, len(order), _USERS_AT_ONCE))
    own = parts[distributed.data_rank() :: distributed.data_world_size()]
    with eval_mode(model):
        ranks = [_ranks(model, past, held_out, users[part], mask=mask) for part in own]
    ranked = np.concatenate([order[:0], *own])
    asked = np.repeat(ranked, held_out.lengths[users[ranked]])
    both = torch.from_numpy(np.stack([asked, np.concatenate([order[:0], *ranks])], axis=1))
    asked, found = distributed.all_gather(both).numpy().T
    return np.ascontiguousarray(found[np.argsort(asked, kind="stable")])


def _ranks(
    model: Recommender, past: RaggedArray, held_out: RaggedArray, users: np.ndarray, *, mask: bool
) -> np.ndarray:
    queries = user_queries(past, users, model.history_length, model.n_items, mask_seen=mask)
    queries = queries.to(model.device)
    vectors, items = model.embed(queries)
    # A sum with one non-finite term is not finite: one pass, no masks.
    if not bool(torch.isfinite(vectors.sum() + items.sum())):
        raise ModelError(
            f"{type(model).__name__} yields non-finite vectors: the model has diverged. Lower the "
            "learning rate and start again from an earlier checkpoint."
        )
    rows = np.repeat(np.arange(len(users)), held_out.lengths[users])
    first = held_out.offsets[users][rows]
    within = np.arange(len(rows)) - np.searchsorted(rows, rows)
    wanted = held_out.values[first + within].astype(np.int64)
    targets = (torch.from_numpy(rows).to(model.device), torch.from_numpy(wanted).to(model.device))
    return target_ranks(vectors, items, targets, queries.seen).cpu().numpy()
