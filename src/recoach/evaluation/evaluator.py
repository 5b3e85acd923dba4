"""Evaluate a recommender by full ranking of held-out items."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from recoach import distributed
from recoach.data.dataset import Dataset
from recoach.data.queries import Queries, Split, state_queries
from recoach.data.targets import Repeats, Targets, accept_mask_seen, targets_of
from recoach.errors import ConfigError
from recoach.evaluation.metrics import MISS, TargetRanks, metrics_per_user
from recoach.evaluation.model_scores import model_scores
from recoach.evaluation.ranking import ranks_of_scores, top_of_scores
from recoach.models.base import Recommender, check_ids, eval_mode

KS = (1, 5, 10, 50)
"""List lengths k of the metrics, unless others are given."""
_STATES_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Ranks and per-state metrics of one model on the targets of a split."""

    targets: Targets
    """The B evaluated states and the N items to predict from them."""
    ranks: np.ndarray
    """int64[N], rank of each target from 1, in the order of the states; `MISS` if it is cold."""
    metrics: dict[str, np.ndarray]
    """`"ndcg@10"` -> float64[B], one value per state."""
    protocol: dict[str, Any]
    """How the metrics were computed; saved together with them in every results file."""

    @property
    def users(self) -> np.ndarray:
        """int64[B], the user of each state."""
        return self.targets.users

    def means(self) -> dict[str, float]:
        """Return the average of every metric over states."""
        return {name: float(values.mean()) for name, values in self.metrics.items()}

    def __repr__(self) -> str:
        means = ", ".join(f"{name}={value:.4f}" for name, value in self.means().items())
        return f"Evaluation({len(self.users)} states, {self.protocol['split']}: {means})"


def masks_seen(repeats: Repeats, model: Recommender) -> bool:
    """Return whether the items of a user's history are masked for this model.

    `"recbole"` masks them for models that read no history and not for sequential ones, as the
    data loaders of RecBole and of the GSAU authors do.
    """
    return repeats == "new" or (repeats == "recbole" and model.history_length == 0)


@accept_mask_seen
def evaluate(
    model: Recommender,
    dataset: Dataset,
    split: Split = "test",
    *,
    ks: Sequence[int] = KS,
    repeats: Repeats = "new",
    users: np.ndarray | None = None,
) -> Evaluation:
    """Rank all items for every state with a target and return per-state metrics.

    Args:
        model: any recommender; in evaluation mode during the call, restored afterwards.
        dataset: the split log; its `split` says which events are targets.
        split: `"valid"` or `"test"`.
        ks: list lengths.
        repeats: items of the history as targets, see `Repeats`.
        users: int64[B], the users to evaluate (default: all users with a target).

    Raises:
        ConfigError: there is no such split, or `ks` is empty or holds a value below 1.
        DataError: no user has a target in this split.
        ModelError: the model was built for other users or items, or returns non-finite scores.
    """
    check_ids(model, dataset)
    targets = targets_of(dataset, split, repeats)
    if users is not None:
        targets = targets.select(np.isin(targets.users, users))
    return evaluate_targets(model, dataset, targets, ks=ks)


@torch.no_grad()
def evaluate_targets(
    model: Recommender, dataset: Dataset, targets: Targets, *, ks: Sequence[int] = KS
) -> Evaluation:
    """Evaluate a model on targets, see `evaluate`."""
    if not ks or min(ks) < 1:
        raise ConfigError(f"ks must be list lengths of at least 1, not {tuple(ks)}.")
    check_ids(model, dataset)
    ranks, n_candidates = _ranks_of_targets(model, dataset, targets)
    # A model knows nothing of an item that is neither in train nor in the history.
    ranks[targets.cold & ~targets.repeated] = MISS
    protocol = {
        "split": targets.part,
        "ranking": "full",
        "n_items": dataset.n_items,
        "repeats": targets.repeats,
        "seen_masked_for_this_model": masks_seen(targets.repeats, model),
        "ties": "against the model",
        "n_users": len(np.unique(targets.users)),
        "n_states": len(targets.users),
        "n_targets": len(targets.positions),
        "repeated_targets": int(targets.repeated.sum()),
        "cold_targets": int(targets.cold.sum()),
        "excluded": targets.excluded,
        "ks": list(ks),
    }
    values = targets.column("value")
    scored = TargetRanks(
        ranks,
        targets.states,
        targets.counts,
        values=None if values is None else values.fill_null(0).to_numpy(),
        n_candidates=n_candidates,
    )
    return Evaluation(targets, ranks, metrics_per_user(scored, ks), protocol)


@torch.no_grad()
def top_lists(model: Recommender, dataset: Dataset, targets: Targets, k: int) -> np.ndarray:
    """Return the top-k list of each state of an evaluation.

    Args:
        model: any recommender; in evaluation mode during the call, restored afterwards.
        dataset: the split log.
        targets: the states, see `targets_of`.
        k: list length.

    Returns:
        int64[B, k], items, best first; a list of fewer than k items is padded with -1.
    """
    check_ids(model, dataset)
    n_states = len(targets.users)
    rows = np.full((n_states, 1 + k), -1, dtype=np.int64)  # index of the state, then the list
    rows[:, 0] = np.arange(n_states)
    is_local = np.zeros(n_states, dtype=np.bool_)
    starts = range(0, n_states, _STATES_AT_ONCE)
    with eval_mode(model):
        for start in starts[distributed.rank_slice()]:
            part = np.arange(start, min(start + _STATES_AT_ONCE, n_states))
            is_local[part] = True
            queries = queries_of(model, dataset, targets, part)
            items = top_of_scores(model_scores(model, queries), k, queries.seen).items.cpu().numpy()
            rows[part, 1 : 1 + items.shape[1]] = items
    all_rows = distributed.all_gather(torch.from_numpy(rows[is_local])).numpy()
    return np.ascontiguousarray(all_rows[np.argsort(all_rows[:, 0]), 1:])


def queries_of(
    model: Recommender, dataset: Dataset, targets: Targets, states: np.ndarray
) -> Queries:
    """Return the queries of int64[b] states, on the model's device.

    Users without training events are unknown to the model, which reads their history only. Items
    that a user rejected before a state are masked, except with RecBole's protocol.
    """
    queries = state_queries(
        targets.past,
        (targets.users[states], targets.ends[states]),
        model,
        user_numbers=dataset.trained_users,
        mask_seen=masks_seen(targets.repeats, model),
        negatives=None if targets.repeats == "recbole" else dataset.negatives,
    )
    return queries.to(model.device)


def _ranks_of_targets(
    model: Recommender, dataset: Dataset, targets: Targets
) -> tuple[np.ndarray, np.ndarray]:
    """Return int64[N] ranks of all targets and int64[B] numbers of ranked items of the states.

    States are sorted by the length of their history and cut into batches, which keeps the padding
    short. The batches are distributed over the data-parallel processes and the results gathered.
    """
    order = np.argsort(targets.ends, kind="stable")
    batches = np.split(order, range(_STATES_AT_ONCE, len(order), _STATES_AT_ONCE))
    local_batches = batches[distributed.rank_slice()]
    with eval_mode(model):
        local_rows = [_ranks_of_batch(model, dataset, targets, batch) for batch in local_batches]
    no_row = np.empty((0, 3), dtype=np.int64)  # a process may have no batch
    rows = distributed.all_gather(torch.from_numpy(np.concatenate([no_row, *local_rows]))).numpy()
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    first = np.cumsum(targets.counts) - targets.counts
    return np.ascontiguousarray(rows[:, 1]), rows[first, 2]


def _ranks_of_batch(
    model: Recommender, dataset: Dataset, targets: Targets, states: np.ndarray
) -> np.ndarray:
    """Return int64[n, 3]: state, rank and number of ranked items of each target of a batch."""
    queries = queries_of(model, dataset, targets, states)
    scores = model_scores(model, queries, check_finite=True)
    counts = targets.counts[states]
    rows = np.repeat(np.arange(len(states)), counts)
    first = (np.cumsum(targets.counts) - targets.counts)[states][rows]
    index = first + np.arange(len(rows)) - np.searchsorted(rows, rows)
    items = torch.from_numpy(targets.past.values[targets.positions[index]].astype(np.int64))
    pairs = (torch.from_numpy(rows).to(model.device), items.to(model.device))
    ranks = ranks_of_scores(scores, pairs, queries.seen).cpu().numpy()
    n_masked = np.zeros(len(states), dtype=np.int64)
    if queries.seen is not None:
        n_masked += torch.bincount(queries.seen.states, minlength=len(states)).cpu().numpy()
        # Targets are ranked although they are masked for a state.
        masked = torch.isin(_keys(pairs, model), _keys(queries.seen[:2], model)).cpu().numpy()
        n_masked -= np.bincount(rows, weights=masked, minlength=len(states)).astype(np.int64)
    return np.stack([states[rows], ranks, dataset.n_items - n_masked[rows]], axis=1)


def _keys(pairs: tuple[torch.Tensor, torch.Tensor], model: Recommender) -> torch.Tensor:
    """Return one number for each pair of a state and an item."""
    return pairs[0] * model.n_items + pairs[1]
