"""Cross-fitted targets: what was taken is judged by a base that has not seen it taken.

A base has learned its training items by heart: its p of one, and with it GRPO's weight
sqrt(p/(1-p)), says what it remembers, not what was to be expected. Here every history is dealt out
to folds, each fold is judged by a base trained on all the others, and what an item pays is the
weight that GRPO gives it at that base's p. With `loss_type = "log"`, which adds no weight of its
own, targets are weighed as GRPO weighs those that are news.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recoach import distributed
from recoach.data.batches import Batch, StateBatches
from recoach.data.dataset import Dataset, assemble, select
from recoach.data.interactions import LongArray
from recoach.data.queries import Queries, Seen, masked_items
from recoach.data.targets import Repeats
from recoach.errors import ConfigError
from recoach.models.base import Recommender, eval_mode
from recoach.policy.objective import log_weight
from recoach.policy.policy import Policy
from recoach.policy.reward_funcs import future
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.config import FinetuneConfig

Fit = Callable[[Dataset, int], Recommender]
"""Trains a new base on a dataset that lacks the fold of this number."""

_STATES_AT_ONCE = 2048
_MOST = 64.0
"""Bound of a weight: what a group of 4,096 gives where all but one are hits."""


class Dealt(NamedTuple):
    """Which base judges what."""

    fold: LongArray
    """int64[N] of each training item; -1 is in none."""
    pairs: LongArray
    """int64[P] user * n_items + item, sorted, of all that may be asked about."""
    first: LongArray
    """int64[P] where in the training items a pair is judged."""


class CrossFitted:
    """The `future` reward times GRPO's weight of the item under a base new to it.

    An item that a user takes more than once is judged at its first place.

    Args:
        dataset: its training histories are dealt out, every `folds`-th item of one to the same
            fold, and wherever it is taken again; what is first in a history, and never again, is in
            none, for nothing is asked before it.
        fit: called once for each fold, when the reward is first asked for.
        args: the settings that the trainer has; `folds`, `discount` and what makes a policy count.
        repeats: protocol of the validation.
    """

    scope = "log"
    __name__ = "cross_fitted"

    def __init__(
        self,
        dataset: Dataset,
        fit: Fit,
        args: FinetuneConfig | None = None,
        repeats: Repeats = "new",
    ) -> None:
        self._dataset, self._fit, self._repeats = dataset, fit, repeats
        self._args: FinetuneConfig = args or GRPOConfig()
        self._pay = future(self._args.discount)
        self._weights: Tensor | None = None

    @cached_property
    def _dealt(self) -> Dealt:
        return deal(self._dataset, self._args.folds)

    def __call__(self, prompts: Tensor, completions: Tensor, ahead: Tensor, **_: Tensor) -> Tensor:
        """Return what items pay.

        Raises:
            ConfigError: an item that is not in the user's history of `dataset`.
        """
        weights, pairs = self.weights(), torch.from_numpy(self._dealt.pairs)
        asked = prompts * self._dataset.n_items + completions
        place = torch.searchsorted(pairs, asked).clamp(max=len(pairs) - 1)
        if bool(((pairs[place] != asked) & (ahead > 0)).any()):
            raise ConfigError(
                "the reward 'cross_fitted' was made for another dataset than the trainer has; make "
                "it for this one."
            )
        paid: Tensor = self._pay(prompts=prompts, completions=completions, ahead=ahead)
        return paid * weights[place]

    def weights(self) -> Tensor:
        """Return float64[P], the weight of each pair; the bases are trained where they are not."""
        if self._weights is None:
            args, dealt = self._args, self._dealt
            log_p = np.zeros(len(dealt.fold))
            for number in np.unique(dealt.fold[dealt.fold >= 0]).tolist():
                held = dealt.fold == number
                model = self._fit(_without(self._dataset, held), number)
                log_p += log_p_of_places(model, self._dataset, held, args, self._repeats)
            weights = log_weight(torch.from_numpy(log_p[dealt.first]), "grpo")
            self._weights = weights.clamp(max=_MOST)
        return self._weights


def deal(dataset: Dataset, folds: int) -> Dealt:
    """Deal training items out to folds, all places of a pair of user and item to one."""
    train = dataset.train
    users = np.repeat(np.arange(len(train)), train.lengths)
    place = np.arange(len(users)) - train.offsets[users]
    keys = users * dataset.n_items + train.values
    asked = np.flatnonzero(place > 0)
    pairs, first = np.unique(keys[asked], return_index=True)  # of equal ones the first in order
    first = asked[first]
    known, fold = np.isin(keys, pairs), np.full(len(keys), -1)
    fold[known] = ((users + place) % folds)[first][np.searchsorted(pairs, keys[known])]
    return Dealt(fold, pairs, first)


@torch.no_grad()
def log_p_of_places(
    model: Recommender,
    dataset: Dataset,
    asked: npt.NDArray[np.bool_],
    args: FinetuneConfig | None = None,
    repeats: Repeats = "new",
) -> npt.NDArray[np.float64]:
    """Return float64[N], how likely a policy was to show training items just before they came.

    Args:
        model: any recommender.
        dataset: the split log.
        asked: bool[N] which of them; the others are 0, and so is the first of a history.
        args: temperature, masks and logits of the policy; an item that comes is never masked.
        repeats: protocol of the validation.
    """
    args, train = args or GRPOConfig(), dataset.train
    masks = args.masks(repeats, model)
    policy = Policy(args.temperature_of(model, dataset, repeats), args.logits)
    places = StateBatches(
        train.keep_columns(model.reads),
        n_items=dataset.n_items,
        history_length=model.history_length,
        batch_size=_STATES_AT_ONCE,
    )
    own: list[Tensor] = []  # each process judges some of the places
    with eval_mode(model):
        for batch in places.epoch(torch.Generator()):
            some = _some(batch, asked[batch.positions])
            queries = _masked(some, dataset, mask_seen=masks, mask_rejected=repeats != "recbole")
            log_p = _log_p(model, policy, queries, some.targets)
            own.append(torch.stack((torch.from_numpy(some.positions).double(), log_p)))
    positions, values = distributed.all_gather(torch.cat(own, dim=1).T).T.numpy()
    found = np.zeros(len(train.values))
    found[positions.astype(np.int64)] = values
    return found


def _some(batch: Batch, kept: npt.NDArray[np.bool_]) -> Batch:
    """Return some states of a batch; they are read from the same rows."""
    queries, which = batch.queries, torch.from_numpy(kept)
    rows, ends = queries.rows[which], queries.ends[which]
    queries = replace(queries, rows=rows, ends=ends, prepared=None)
    return Batch(queries, batch.positions[kept], batch.targets[which])


def _masked(batch: Batch, dataset: Dataset, *, mask_seen: bool, mask_rejected: bool) -> Queries:
    """Return a batch's states with the masked items of their policy, without the next item."""
    users = batch.queries.state_users.numpy()
    ends = batch.positions - dataset.train.offsets[users]
    negatives = dataset.negatives if mask_rejected else None
    seen = masked_items(dataset.train, (users, ends), negatives, mask_seen=mask_seen)
    if seen is None:
        return batch.queries
    other = seen.items != batch.targets[seen.states]
    return replace(batch.queries, seen=Seen(seen.states[other], seen.items[other]))


def _log_p(model: Recommender, policy: Policy, asked: Queries, targets: Tensor) -> Tensor:
    """Return float64[B], the log-probability of one item for each state."""
    if not len(asked):
        return torch.zeros(0, dtype=torch.float64)
    queries, targets = asked.to(model.device), targets.to(model.device)
    parts = [
        block.log_p(torch.arange(len(block), device=model.device), targets[block.which])
        for block in policy.distribution(model, queries).blocks()
    ]
    return torch.cat(parts).double().cpu()


def _without(dataset: Dataset, held: np.ndarray) -> Dataset:
    parts = (select(dataset.train, ~held), dataset.valid, dataset.test)
    part = assemble(dataset.name, (dataset.user_ids, dataset.item_ids), parts)
    return replace(part, split=dataset.split, negatives=dataset.negatives)
