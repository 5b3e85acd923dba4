"""Cross-fitted targets: what was taken is judged by a base that has not seen it taken.

A base has learned its training items by heart: its p of one, and with it GRPO's weight
sqrt(p/(1-p)), says what it remembers, not what was to be expected. Here every history is dealt out
to folds, each fold is judged by a base trained on all the others, and what an item pays is the
weight that GRPO gives it under that base. With `loss_type = "log"`, which adds no weight of its
own, a step is GRPO's on targets that are news (Eq. 4 with the group drawn from that base).
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recoach import parallel
from recoach.data.batch import Batch, Queries, Seen, StateBatches, seen_before
from recoach.data.interactions import LongArray
from recoach.data.split import Dataset, Ragged, assemble, chosen
from recoach.evaluation.evaluator import MaskSeen
from recoach.models.base import Recommender, judging
from recoach.policy.objective import log_weight
from recoach.policy.policy import Logits, Policy, calibrate_temperature
from recoach.policy.reward_funcs import RewardFunc, future, of_log
from recoach.training.config import GRPOConfig

Fit = Callable[[Dataset, int], Recommender]
"""Trains a new base on a dataset that lacks the fold of this number."""

_STATES_AT_ONCE = 2048


def cross_fitted(
    dataset: Dataset, fit: Fit, args: GRPOConfig | None = None, mask_seen: MaskSeen = "all"
) -> RewardFunc:
    """Return the `future` reward times GRPO's weight of the item under a base new to it.

    Args:
        dataset: its training histories are dealt out, every `folds`-th item of one to the same
            fold; the first item of a history is in none, for nothing is asked before it.
        fit: called once for each fold.
        args: the settings that the trainer has; `folds`, `discount` and what makes a policy count.
        mask_seen: protocol of the validation.

    Returns:
        A function of the log. An item that a user takes more than once is judged at its first
        place.
    """
    args, train = args or GRPOConfig(), dataset.train
    users = np.repeat(np.arange(len(train)), train.lengths)
    fold = _dealt(train, users, args.folds)
    log_p = np.zeros(len(fold))
    for number in range(args.folds):
        held = fold == number
        model = fit(_without(dataset, held), number)
        masks = args.masks(mask_seen, model)
        log_p[held] = log_p_of_places(model, dataset, mask_seen=masks, logits=args.logits)[held]
    asked = fold >= 0
    keys = users[asked] * dataset.n_items + train.values[asked]
    known, first = np.unique(keys, return_index=True)  # of equal ones the first: they are in order
    pairs = torch.from_numpy(known)
    weights = log_weight(torch.from_numpy(log_p[asked][first]), "grpo")
    pay = future(args.discount)

    @of_log
    def cross_fitted(prompts: Tensor, completions: Tensor, ahead: Tensor, **_: Tensor) -> Tensor:
        place = torch.searchsorted(pairs, prompts * dataset.n_items + completions)
        paid: Tensor = pay(prompts=prompts, completions=completions, ahead=ahead)
        return paid * weights[place.clamp(max=len(weights) - 1)]

    return cross_fitted


@torch.no_grad()
def log_p_of_places(
    model: Recommender, dataset: Dataset, *, mask_seen: bool, logits: Logits = "raw"
) -> npt.NDArray[np.float64]:
    """Return float64[N], how likely a policy was to show each training item just before it came.

    Args:
        model: any recommender; its temperature is fitted on the validation items.
        dataset: the split log; a history's first item has no state before it, and 0 here.
        mask_seen: whether the policy masks what a user has taken; an item taken again counts.
        logits: what the scores are made of, see `Policy`.
    """
    train = dataset.train
    temperature = calibrate_temperature(model, dataset, mask_seen=mask_seen, logits=logits)
    policy = Policy(temperature, logits)
    places = StateBatches(
        train,
        n_items=dataset.n_items,
        history_length=model.history_length,
        batch_size=_STATES_AT_ONCE,
    )
    own: list[Tensor] = []  # each process judges some of the places
    with judging(model):
        for batch in places.epoch(torch.Generator()):
            log_p = _log_p(model, policy, _asked(batch, train, mask_seen=mask_seen), batch.targets)
            own.append(torch.stack((torch.from_numpy(batch.positions).double(), log_p)))
    positions, values = parallel.gathered(torch.cat(own, dim=1).T).T.numpy()
    found = np.zeros(len(train.values))
    found[positions.astype(np.int64)] = values
    return found


def _asked(batch: Batch, train: Ragged, *, mask_seen: bool) -> Queries:
    """Return a batch's states with what they may not be shown: all they have had but the next."""
    if not mask_seen:
        return batch.queries
    starts = train.offsets[batch.queries.state_users.numpy()]
    seen = seen_before(train.values, starts, batch.positions)
    other = seen.items != batch.targets[seen.states]
    return replace(batch.queries, seen=Seen(seen.states[other], seen.items[other]))


def _log_p(model: Recommender, policy: Policy, asked: Queries, targets: Tensor) -> Tensor:
    """Return float64[B], the log-probability of one item for each state."""
    queries, targets = asked.to(model.device), targets.to(model.device)
    vectors = policy.embed(model, queries)
    parts = [
        block.log_p(torch.arange(len(block), device=model.device), targets[block.which])
        for block in policy.catalogue(vectors, queries.seen).blocks(vectors.users)
    ]
    return torch.cat(parts).double().cpu()


def _dealt(train: Ragged, users: LongArray, folds: int) -> LongArray:
    """Return int64[N], the fold of each training item; -1 for the first of a history."""
    place = np.arange(len(users)) - train.offsets[users]
    return np.where(place == 0, -1, (users + place) % folds)


def _without(dataset: Dataset, held: np.ndarray) -> Dataset:
    parts = (chosen(dataset.train, ~held), dataset.valid, dataset.test)
    part = assemble(dataset.name, (dataset.user_ids, dataset.item_ids), parts)
    ratings = None if dataset.ratings is None else dataset.ratings[~held]
    return replace(part, split=dataset.split, ratings=ratings)
