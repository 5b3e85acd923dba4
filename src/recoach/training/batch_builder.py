"""From states to batches: the rewards of their items, the masks and the transitions."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import polars as pl
import torch

from recoach import distributed
from recoach.data.batches import Batch, States
from recoach.data.dataset import Dataset
from recoach.data.episodes import (
    Doubles,
    Episodes,
    episodes_of,
    event_rewards,
    weights_of_types,
)
from recoach.data.interactions import LongArray
from recoach.data.queries import Seen, join_pairs, masked_items, seen_before
from recoach.errors import ConfigError
from recoach.models.base import Recommender
from recoach.policy.candidates import Proposal, restrict_to_candidates
from recoach.policy.list_rewards import list_reward
from recoach.policy.reward_funcs import (
    DISCOUNTED,
    ITEM_REWARDS,
    LIST_REWARDS,
    RewardFunc,
    by_name,
    name_of,
    rejected,
    scope_of,
    train_set,
)
from recoach.policy.rewards import (
    CombinedReward,
    LoggedItems,
    Rewards,
    UserStates,
    add_rejected,
    drop_seen,
    future_items,
    normalized,
    past_items,
)
from recoach.policy.shuffling import source_events
from recoach.policy.smoothing import Smoothing
from recoach.training.algorithms.base import LoggedActions, RLBatch
from recoach.training.config import FinetuneConfig
from recoach.training.reward_checks import check_function, reason_against_negative
from recoach.training.transition_config import TransitionConfig
from recoach.training.transitions import TransitionBuilder, Transitions

_SMOOTHING: Final = 0.3
"""The neighbours' part where nothing else regularises (docs/decisions/0014 and 0015)."""


class BatchBuilder:
    """Builds the batches that an algorithm learns from.

    Args:
        args: rewards, horizon, masks; `mask_seen` is resolved.
        dataset: its `train` gives the rewards.
        functions: reward functions, or names of ready-made ones.
        model: decides what `auto` means.
        transitions: whether batches carry transitions.
        mask_rejected: whether the policy masks items that the user rejected before the state.
        seed: of `shuffle_rewards`.

    Raises:
        ConfigError: a reward function does not fit the algorithm, or a ready-made one lacks its
            data.
    """

    def __init__(  # noqa: PLR0913 - what the batches are built from and what they hold
        self,
        args: FinetuneConfig,
        dataset: Dataset,
        functions: Sequence[RewardFunc | str],
        model: Recommender,
        *,
        transitions: bool = False,
        mask_rejected: bool = True,
        seed: int = 0,
    ) -> None:
        self.args, self.dataset = args, dataset
        if "return" in functions:
            self.dataset = dataset = _with_returns(args, dataset)
        resolved = [
            self._named(function, model) if isinstance(function, str) else function
            for function in functions
        ]
        self._rewards_past = train_set in resolved
        self._rewards_rejected = rejected in resolved
        self._negatives = dataset.negatives if mask_rejected else None
        for function in resolved:
            check_function(function, args)
        self._check_past(
            {"next_item", "return_of_action", *DISCOUNTED}.intersection(map(name_of, resolved))
        )
        self.reward = CombinedReward(
            resolved,
            args.reward_weights,
            args.multi_objective_aggregation,
            n_items=dataset.n_items,
        )
        self._sources: LongArray | None = None
        if args.shuffle_rewards != "none":
            self._sources = source_events(dataset.train, args.shuffle_rewards, seed)
        self._transitions = None
        if transitions:
            self._transitions = TransitionBuilder(
                dataset,
                *_episodes(args, dataset),
                history_length=model.history_length,
                mask_seen=bool(args.mask_seen),
                negatives=self._negatives,
            )
        self._propensities = _propensities(dataset) if args.needs_propensities else None
        self._sample_size = args.catalogue_sample
        self._proposal = (
            None if self._sample_size is None else Proposal(dataset.train, dataset.n_items)
        )
        self._normalizes = normalizes_rewards(args, dataset, resolved)
        self._smoothing = None
        weight = smoothing_weight(args, model, dataset)
        if weight and any(scope_of(function) == "log" for function in resolved):
            count = args.smoothing_neighbours
            self._smoothing = Smoothing(dataset.train, dataset.n_items, weight, count)
        self.states: States = served_states(model) if args.state == "auto" else args.state

    def build(self, batch: Batch, device: torch.device) -> RLBatch:
        """Return a batch of states with rewards, masks and, if needed, transitions.

        Raises:
            ConfigError: a reward is negative and the algorithm needs rewards of at least 0.
        """
        args, train, queries = self.args, self.dataset.train, batch.queries
        users = queries.state_users
        starts = train.offsets[users.numpy()]
        states = (users.numpy(), batch.positions - starts)
        sources = self._source_states(states)
        logged = self._logged_items(sources)
        rewards = self.reward.logged_rewards(logged, torch.from_numpy(sources[0]))
        if self._sources is not None and _rewards_actions(args):
            rewards = self._move_to_actions(rewards, sources, batch.targets)
        if not args.accepts_negative_rewards and bool((rewards.values < 0).any()):
            raise ConfigError(
                "a reward function returned a reward below 0, or has a negative weight, and "
                f"{reason_against_negative(args)}."
            )
        seen = seen_before(train.values, starts, batch.positions)
        if self._smoothing is not None:
            rewards = self._smoothing(rewards, len(users))
        unseen = drop_seen(rewards, seen)
        if args.hide_rewarded and not self._rewards_past:
            # A repeated pair is one edge of the graph, which stays: the user knew the item.
            hidden = Seen(unseen.states, unseen.items)
            if args.learns_actions:
                hidden = join_pairs(hidden, _unseen_targets(batch.targets, seen))
            queries = replace(queries, hidden=hidden)
        masks_seen_only = args.mask_seen and self._negatives is None
        masked = seen if masks_seen_only else self._masked_items(states)
        if masked is not None:
            rewards = unseen if masked is seen else drop_seen(rewards, masked)
            queries = replace(queries, seen=masked)
        if self._normalizes:
            rewards = normalized(rewards, len(users))
        return RLBatch(
            queries.to(device),
            rewards.to(device),
            logged=logged if self.reward.draw_functions or args.needs_logged_items else None,
            transitions=self._transitions_of(batch, rewards, device),
            actions=self._actions(batch, device),
            has_negative_rewards=bool((rewards.values < 0).any()),
        )

    def _transitions_of(
        self, batch: Batch, rewards: Rewards, device: torch.device
    ) -> Transitions | None:
        if self._transitions is None:
            return None
        return self._transitions.build(batch, rewards).to(device)

    def _masked_items(self, states: UserStates) -> Seen | None:
        mask_seen = bool(self.args.mask_seen)
        return masked_items(self.dataset.train, states, self._negatives, mask_seen=mask_seen)

    def _source_states(self, states: UserStates) -> UserStates:
        """Return the states whose logged items are rewarded: others with `shuffle_rewards`."""
        if self._sources is None:
            return states
        offsets, (users, ends) = self.dataset.train.offsets, states
        events = self._sources[offsets[users] + ends - 1]
        others = np.searchsorted(offsets, events, side="right") - 1
        return others, events - offsets[others] + 1

    def _logged_items(self, states: UserStates) -> LoggedItems:
        """Return the items that the reward functions of the log are called with."""
        if self._rewards_past:
            logged = past_items(states[0], self.dataset)
        else:
            args = self.args
            logged = future_items(states, self.dataset, args.horizon, args.event_weights)
        return add_rejected(logged, self.dataset, states) if self._rewards_rejected else logged

    def _move_to_actions(
        self, rewards: Rewards, sources: UserStates, actions: torch.Tensor
    ) -> Rewards:
        """Return rewards of the source states' next items as rewards of the own next items.

        Where only logged actions are rewarded, rewards change places, and the actions stay.
        """
        train, (users, ends) = self.dataset.train, sources
        positions = np.minimum(train.offsets[users] + ends, len(train.values) - 1)
        next_items = torch.from_numpy(train.values[positions].astype(np.int64))
        rewards = rewards.where(rewards.items == next_items[rewards.states])
        return rewards._replace(items=actions[rewards.states])

    def _actions(self, batch: Batch, device: torch.device) -> LoggedActions | None:
        """Return the logged actions of the states; None for states "user", which have none."""
        if self.states == "user":
            return None
        propensities = self._propensities
        if propensities is not None:
            propensities = propensities[batch.positions]
        return LoggedActions(batch.targets, propensities).to(device)

    def restrict(self, batch: RLBatch, generator: torch.Generator) -> RLBatch:
        """Return the batch within a sample of the catalogue, where one stands for it."""
        if self._proposal is None or self._sample_size is None:
            return batch
        queries, rewards = batch.queries.on_host, batch.rewards.on_host
        rewarded = distributed.all_gather(rewards.items)
        candidates = self._proposal.candidates(rewarded, self._sample_size, generator)
        queries, rewards = restrict_to_candidates(queries, rewards, candidates)
        device = batch.queries.users.device
        return batch._replace(
            queries=replace(batch.queries, seen=queries.seen and queries.seen.to(device)),
            rewards=rewards.to(device),
            candidates=candidates.to(device),
        )

    def _named(self, name: str, model: Recommender) -> RewardFunc:
        """Return a ready-made reward function."""
        if name in LIST_REWARDS:
            return list_reward(name, self.dataset, model)
        args = self.args
        column = getattr(args, "exposure_column", None)
        return by_name(name, self.dataset, args.discount, args.event_weights, column)

    def _check_past(self, future_names: set[str]) -> None:
        if not self._rewards_past:
            return
        if future_names:
            raise ConfigError(
                f"reward 'train_set' rewards past items and {sorted(future_names)[0]!r} future "
                "items; use one of them."
            )
        if self.args.mask_seen:
            raise ConfigError(
                "reward 'train_set' rewards items that the user has already interacted with; set "
                "mask_seen = false."
            )


def _unseen_targets(targets: torch.Tensor, seen: Seen) -> Seen:
    """Return the next item of each state as pairs, but for items of its history."""
    states = torch.arange(len(targets))
    pairs = drop_seen(Rewards(states, targets, torch.ones(len(targets))), seen)
    return Seen(pairs.states, pairs.items)


def _rewards_actions(args: FinetuneConfig) -> bool:
    """Return whether a reward counts only if it is that of the logged action."""
    return isinstance(args, TransitionConfig) or args.rewards_actions_only


def _episodes(args: FinetuneConfig, dataset: Dataset) -> tuple[Episodes, Doubles]:
    """Return the episodes of the training histories and the discount after each event."""
    episodes = episodes_of(dataset, args.episode, args.session_gap)
    discount = args.gamma if isinstance(args, TransitionConfig) else args.discount
    return episodes, episodes.discounts(discount, args.discount_unit)


def check_log(args: FinetuneConfig, dataset: Dataset) -> None:
    """Raise a ConfigError if a reward or the algorithm needs a column that the log does not have.

    So too for a weight of an event type below 0, where the algorithm needs rewards of at least 0.
    `BatchBuilder` finds the same, but a run builds it after the base is trained.
    """
    if args.event_weights:
        weights_of_types(dataset.train, args.event_weights, "finetune.event_weights")
    below = [name for name, weight in args.event_weights.items() if weight < 0]
    if below and not args.accepts_negative_rewards:
        raise ConfigError(
            f"finetune.event_weights: the weight of {below[0]!r} is below 0, and "
            f"{reason_against_negative(args)}."
        )
    if args.needs_propensities:
        _propensities(dataset)
    for name in {"rated", "rejected", "value", "exposure"}.intersection(args.reward_funcs):
        by_name(name, dataset, args.discount, None, getattr(args, "exposure_column", None))


def _propensities(dataset: Dataset) -> torch.Tensor:
    """Return float32[m], the propensities of the training events, NaN where one is missing."""
    columns = dataset.train.columns
    if "propensity" not in columns:
        raise ConfigError(
            "behaviour = 'logged' needs the column `propensity`, the probability with which an "
            "item was shown, and the data have none; map it with --set "
            "data.columns.propensity=NAME, or use behaviour = 'head'."
        )
    return torch.from_numpy(columns["propensity"].fill_null(float("nan")).to_numpy().copy())


def _with_returns(args: FinetuneConfig, dataset: Dataset) -> Dataset:
    """Return the dataset with the column `returns` in train."""
    rewards = event_rewards(dataset.train, args.event_weights, "reward 'return'")
    episodes, discounts = _episodes(args, dataset)
    values = pl.Series("returns", episodes.returns(rewards, discounts))
    train = replace(dataset.train, columns={**dataset.train.columns, "returns": values})
    return replace(dataset, train=train)


def served_states(model: Recommender) -> States:
    """Return the states in which a model is served."""
    return "prefix" if model.history_length else "last_prefix"


def smoothing_weight(args: FinetuneConfig, model: Recommender, dataset: Dataset) -> float:
    """Return the part of a reward that goes to the item's neighbours."""
    if args.reward_smoothing != "auto":
        return args.reward_smoothing
    is_plain = model.regularises or args.rewards_actions_only or _is_by_time(dataset)
    return 0.0 if is_plain else _SMOOTHING


def normalizes_rewards(
    args: FinetuneConfig, dataset: Dataset, functions: Iterable[RewardFunc | str]
) -> bool:
    """Return whether the rewards of each state are divided by their sum."""
    names = {f if isinstance(f, str) else name_of(f) for f in functions}
    by_default = _is_by_time(dataset) and names - ITEM_REWARDS == {"future"}
    return args.normalizes_rewards(by_default=by_default)


def _is_by_time(dataset: Dataset) -> bool:
    return dataset.split.kind == "time"
