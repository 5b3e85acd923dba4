"""The policy: a softmax over the items a state may be shown."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from recoach.data.batch import Queries, Seen, histories, user_queries
from recoach.data.split import Dataset
from recoach.evaluation.ranking import between
from recoach.models.base import Recommender, judging

_CALIBRATION_USERS = 1024


@dataclass(frozen=True, slots=True)
class Policy:
    """softmax(score / temperature), in float32, zero for masked items."""

    temperature: float = 1.0

    def logits(self, users: Tensor, items: Tensor, seen: Seen | None = None) -> Tensor:
        """Return float[b, I] scores over temperature, -inf where seen.

        Args:
            users: float[b, D] states.
            items: float[I, D] catalogue.
            seen: masked pairs of these states.
        """
        logits = (users @ items.T).float() / self.temperature
        if seen is not None and len(seen.items):
            logits = logits.index_put(tuple(seen), logits.new_tensor(-torch.inf))
        return logits


def seen_between(seen: Seen | None, start: int, stop: int) -> Seen | None:
    """Return the pairs of states start..stop-1, renumbered from 0."""
    if seen is None:
        return None
    which = between(seen.states, start, stop)
    return Seen(seen.states[which] - start, seen.items[which])


@torch.no_grad()
def calibrate_temperature(
    model: Recommender, dataset: Dataset, *, mask_seen: bool, seed: int = 0
) -> float:
    """Return the temperature under which the validation items are most likely.

    Scores trained by BPR or alignment are no log-probabilities; one number, fitted on the
    likelihood of at most 1,024 users' validation items, puts all backbones on equal footing.

    Args:
        model: any recommender.
        dataset: gives the validation items.
        mask_seen: whether the policy masks what the user has taken.
        seed: draws the users.

    Returns:
        A temperature in [1e-3, 1e3]; 1 where no user has a validation item that may be shown.
    """
    users = np.flatnonzero(dataset.valid.lengths > 0)
    users = np.random.default_rng(seed).permutation(users)[:_CALIBRATION_USERS]
    if len(users) == 0:
        return 1.0
    past = histories(dataset, "valid")
    queries = user_queries(
        past, users, model.history_length, dataset.n_items, mask_seen=mask_seen
    ).to(model.device)
    first = dataset.valid.offsets[users]
    targets = torch.from_numpy(dataset.valid.values[first].astype(np.int64)).to(model.device)
    logits = _evaluation_logits(model, queries)
    own = logits.gather(1, targets[:, None])
    shown = own[:, 0] > -torch.inf
    if not bool(shown.any()):
        return 1.0
    logits, own = logits[shown], own[shown]

    def loss(log_temperature: float) -> float:
        scale = float(np.exp(-log_temperature))
        return float(((logits * scale).logsumexp(dim=1) - own[:, 0] * scale).mean())

    bounds = (np.log(1e-3), np.log(1e3))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def _evaluation_logits(model: Recommender, queries: Queries) -> Tensor:
    with judging(model):
        users, items = model.embed(queries)
    return Policy().logits(users, items, queries.seen)
