"""From places in histories to tasks: what the policy is asked there, and what that may earn."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch

from recoach import distributed
from recoach.data.batches import Batch, Seen, States, seen_before
from recoach.data.split import Dataset
from recoach.errors import ConfigError
from recoach.models.base import Recommender
from recoach.policy.candidates import Proposal, restrict_to_candidates
from recoach.policy.reward_funcs import (
    DISCOUNTED,
    RewardFunc,
    by_name,
    name_of,
    scope_of,
    train_set,
)
from recoach.policy.rewards import CombinedReward, drop_seen, future_items, past_items
from recoach.policy.smoothing import Smoothing
from recoach.training.config import HEARS_THE_LOG, GRPOConfig
from recoach.training.estimators import RLBatch

_SMOOTHING: Final = 0.3
"""Share of the neighbours where nothing else regularises (docs/decisions/0014 and 0015)."""


class BatchBuilder:
    """Makes tasks of batches.

    Args:
        args: rewards, horizon, masks.
        dataset: rewards come from its `train`.
        functions: reward functions, or names of ready-made ones.
        model: whom the tasks are for; what `auto` stands for depends on it.

    Raises:
        ConfigError: a function the estimator cannot ask, or a ready-made one without its data.
    """

    def __init__(
        self,
        args: GRPOConfig,
        dataset: Dataset,
        functions: Sequence[RewardFunc | str],
        model: Recommender,
    ) -> None:
        self.args, self.dataset = args, dataset
        asked = [
            by_name(function, dataset, args.discount) if isinstance(function, str) else function
            for function in functions
        ]
        self._of_past = train_set in asked
        for function in asked:
            _check_asked(function, args)
        ahead = {"next_item", *DISCOUNTED}.intersection(map(name_of, asked))
        if self._of_past and (ahead or args.mask_seen):
            raise ConfigError(
                f"reward 'train_set' looks back and {sorted(ahead)[0]!r} ahead; take one of them."
                if ahead
                else "reward 'train_set' pays for items the user has taken; set mask_seen = false."
            )
        self.rewarder = CombinedReward(
            asked,
            args.reward_weights,
            args.multi_objective_aggregation,
            n_items=dataset.n_items,
        )
        stratified = args.estimator == "stratified"
        self._proposal = Proposal(dataset.train, dataset.n_items) if stratified else None
        self._smoothed = None
        share = _smoothing_share(args, model)
        if share and any(scope_of(function) == "log" for function in asked):
            count = args.smoothing_neighbours
            self._smoothed = Smoothing(dataset.train, dataset.n_items, share, count)
        self.states: States = _served(model) if args.state == "auto" else args.state

    def task(self, batch: Batch, device: torch.device) -> RLBatch:
        """Return what a batch of states may earn, and what hides it."""
        args, train, queries = self.args, self.dataset.train, batch.queries
        users = queries.state_users
        if self._of_past:
            logged = past_items(batch, self.dataset)
        else:
            logged = future_items(batch, self.dataset, args.horizon)
        rewards = self.rewarder.of_log(logged, users)
        if not args.draws and bool((rewards.values < 0).any()):
            raise ConfigError(
                "a reward function paid less than 0, or has a negative weight: estimator "
                f"{args.estimator!r} raises what is rewarded; shift it, or use estimator "
                "'sampled'."
            )
        seen = seen_before(train.values, train.offsets[users.numpy()], batch.positions)
        if self._smoothed is not None:
            rewards = self._smoothed(rewards, len(users))
        new = drop_seen(rewards, seen)
        if args.hide_rewarded and not self._of_past:  # a repeated pair is one edge, and known
            queries = replace(queries, hidden=Seen(new.states, new.items))
        if args.mask_seen:
            rewards, queries = new, replace(queries, seen=seen)
        asked = logged if self.rewarder.on_draws else None
        return RLBatch(queries.to(device), rewards.to(device), logged=asked)

    def narrowed(self, task: RLBatch, generator: torch.Generator) -> RLBatch:
        """Return the task within a sample of the catalogue, where one stands for it."""
        if self._proposal is None:
            return task
        count = self.args.num_negatives
        rewarded = distributed.all_gather(task.rewards.items)
        candidates = self._proposal.candidates(rewarded, count, generator)
        queries, rewards = restrict_to_candidates(task.queries, task.rewards, candidates)
        return task._replace(queries=queries, rewards=rewards, candidates=candidates)


def _served(model: Recommender) -> States:
    """Return the places in histories where a model stands as it does in service."""
    return "prefix" if model.history_length else "last_prefix"


def _smoothing_share(args: GRPOConfig, model: Recommender) -> float:
    if args.reward_smoothing != "auto":
        return args.reward_smoothing
    return 0.0 if model.regularises else _SMOOTHING


def _check_asked(function: RewardFunc, args: GRPOConfig) -> None:
    """Raise ConfigError where the estimator cannot ask a function, or would not hear it."""
    if not callable(function):
        raise ConfigError(f"a reward function is called; {function!r} is neither one nor a name.")
    name, scope = name_of(function), scope_of(function)
    if scope == "draws" and not args.draws:
        raise ConfigError(
            f"the reward function {name} may pay for anything, and estimator {args.estimator!r} "
            "asks about no draws: mark it @of_log or @of_items (recoach.policy.reward_funcs), or "
            "use estimator 'sampled' or 'slate'."
        )
    if scope == "draws" and args.dead_groups != "zero":
        raise ConfigError(
            f"dead_groups = {args.dead_groups!r} looks at what the log and items pay, and the "
            f"reward function {name} may pay for anything: mark it @of_log or @of_items."
        )
    if scope == "items" and args.algorithm in HEARS_THE_LOG:
        raise ConfigError(
            f"algorithm {args.algorithm!r} learns from what the log rewards, and {name} pays "
            "whoever is shown an item; leave it out, or use another algorithm."
        )
