"""Cross-entropy of the next item together with a Q head: SQN, SNQN, SA2C and their controls."""

from typing import Final, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from recoach import distributed
from recoach.data.queries import Queries
from recoach.errors import ConfigError
from recoach.models.base import Embeddings, dot_product, eval_mode
from recoach.models.sharded_softmax import distribution_over_items
from recoach.policy.rewards import Rewards
from recoach.training.algorithms.base import (
    Algorithm,
    Learner,
    RLBatch,
    Statistics,
    cross_entropy,
    draw_generator,
    transitions_of,
)
from recoach.training.algorithms.q_head import QHead, TargetNetwork, best_values
from recoach.training.algorithms.state_vectors import vectors_of
from recoach.training.algorithms.td_learning import (
    RewardRange,
    TDLoss,
    mean_of_processes,
    td_errors,
)
from recoach.training.transition_config import TransitionConfig
from recoach.training.transitions import Transitions

_HIGHEST_ADVANTAGE: Final = 10.0
"""Bound of the advantages (Xin et al. 2022)."""
_MARGIN: Final = 0.25
"""Part of the range of returns: where all rewards are equal, Q is near its upper end."""


class SupervisedQConfig(TransitionConfig):
    """Settings of cross-entropy with a Q head; the algorithms differ in their defaults."""

    target: Literal["max", "sarsa", "remaining", "past", "random"] = "max"
    """What Q of the logged action is regressed on. `max`: r + gamma max Q(next state, item).
    `sarsa`: r + gamma Q(next state, next logged action), which leaves out transitions without one
    (EVAL). Controls without a reward (Labarca et al. 2024): `remaining` and `past`, the number of
    events after and before the action in its episode, over the number of items that the model
    reads, at most 1 (FUT, HIST); `random`, a number in [0, 1) that is fixed for each event."""
    q_coef: float = Field(default=1.0, ge=0)
    """Weight of the temporal differences beside the cross-entropy."""
    actor_weight: Literal["none", "q", "advantage"] = "none"
    """Weight of an event's cross-entropy, scaled to mean 1 in a batch: 1; Q of the logged action,
    at least 0; or its advantage, Q minus the mean Q over the catalogue, between 0 and 10. An
    advantage needs Q of items that are not logged, see `num_negatives`."""
    critic_warmup_steps: int = Field(default=0, ge=0)
    """First steps, in which every event has weight 1."""
    train_encoder: bool = True
    """Whether the temporal differences also train the model, through the state vectors; otherwise
    they train the Q head only."""
    double: bool = True
    """Choose the best item by the model and evaluate it by the target network (van Hasselt et al.
    2016); without it the target network does both and overestimates."""
    tau: float = Field(default=0.005, gt=0, le=1)
    """Part of the model in the target network's update after each step (Polyak averaging)."""
    td_loss: TDLoss = "squared"
    """Loss of a temporal difference: half the square, or Huber with threshold 1."""
    num_negatives: int = Field(default=0, ge=0)
    """Uniformly drawn items per state, other than the logged action, whose target is
    `negative_reward` + gamma max Q(state, item): a negative leaves the state as it is (SNQN)."""
    negative_reward: float = 0.0
    """Reward of a drawn item."""
    conservative_coef: float = Field(default=0.0, ge=0)
    """Weight of the conservative term, log-sum-exp of Q over the catalogue minus Q of the logged
    action (CQL, Kumar et al. 2020)."""

    @model_validator(mode="after")
    def _check_head(self) -> Self:
        learns_returns = self.target in ("max", "sarsa")
        returns = "the targets 'max' and 'sarsa'"
        chooses = learns_returns and (self.target == "max" or self.num_negatives > 0)
        self._check_effect(
            {
                "gamma": (learns_returns, returns),
                "tau": (learns_returns, returns),
                "num_negatives": (learns_returns, returns),
                "negative_reward": (self.num_negatives > 0, "num_negatives above 0"),
                "double": (chooses, "the target 'max' and num_negatives above 0"),
                "critic_warmup_steps": (self.actor_weight != "none", "another actor_weight"),
            }
        )
        return self

    @property
    def bootstraps(self) -> bool:
        """Whether targets contain values of other states."""
        return self.target in ("max", "sarsa") and self.gamma > 0

    @property
    def accepts_negative_rewards(self) -> bool:
        """Whether rewards may be negative: Q is a regression."""
        return True

    @property
    def learns_actions(self) -> bool:
        """Whether the loss has the cross-entropy of every logged action: always."""
        return True


class SQNConfig(SupervisedQConfig):
    """Settings of SQN, self-supervised Q-learning (Xin et al. 2020)."""

    algorithm: Literal["sqn"] = "sqn"
    """The algorithm of these settings."""


class SNQNConfig(SupervisedQConfig):
    """Settings of SNQN, SQN with negatives (Xin et al. 2022)."""

    algorithm: Literal["snqn"] = "snqn"
    """The algorithm of these settings."""
    num_negatives: int = Field(default=10, ge=0)
    """See `SupervisedQConfig`."""


class SQNActorCriticConfig(SupervisedQConfig):
    """Settings of the actor-critic of SQN (Xin et al. 2020, who call it SAC)."""

    algorithm: Literal["sqn_actor_critic"] = "sqn_actor_critic"
    """The algorithm of these settings."""
    actor_weight: Literal["none", "q", "advantage"] = "q"
    """See `SupervisedQConfig`."""
    critic_warmup_steps: int = Field(default=200, ge=0)
    """First steps, in which every event has weight 1 (none to 30,000 in the authors' files)."""


class SA2CConfig(SupervisedQConfig):
    """Settings of SA2C, the advantage actor-critic of SNQN (Xin et al. 2022)."""

    algorithm: Literal["sa2c"] = "sa2c"
    """The algorithm of these settings."""
    actor_weight: Literal["none", "q", "advantage"] = "advantage"
    """See `SupervisedQConfig`."""
    critic_warmup_steps: int = Field(default=200, ge=0)
    """First steps, in which every event has weight 1 (15,000 in the authors' files)."""
    num_negatives: int = Field(default=10, ge=0)
    """See `SupervisedQConfig`."""


class QTargets(NamedTuple):
    """What stays fixed for a batch."""

    items: Tensor
    """int64[B, 1 + num_negatives] the logged action, then drawn items."""
    targets: Tensor
    """float[B, 1 + num_negatives] the target of Q for each item, clamped."""
    is_used: Tensor
    """bool[B] whether the logged action has a target."""
    is_clamped: Tensor
    """bool[B] whether that target was far outside the possible returns."""


class SupervisedQ(Algorithm[SupervisedQConfig, QTargets]):
    """Minimises weight(s, a) · cross-entropy(s, a) + q_coef · (Q(s, a) - target)² / 2.

    The model that is evaluated and served is that of the cross-entropy; the Q head is left behind.
    With a table of scores for each state, SQN and SNQN therefore end where cross-entropy does, at
    the frequencies of the next items. Whatever they add comes through the shared encoder
    (`train_encoder`), as with any other auxiliary loss: compare with `target = "random"`. The
    actor-critics end at the frequencies times the weights.

    Departures from the authors' code. It trains one of two whole networks in each step, chosen by
    a coin, and takes targets from the other one; here one network is trained and a moving average
    of it gives the targets. Actor weights have mean 1 in a batch; raw Q and advantages also
    scale the learning rate. The advantage subtracts the mean of Q over the catalogue and not over
    ten drawn items, of which it is the expectation but for a common factor. The drawn items' losses
    are summed for each state, as in that code. A truncated transition bootstraps from the state
    after the action. Targets are clamped to the possible returns.

    For a model without history every transition is terminated: Q is the expected reward of a
    contextual bandit, and drawn items have the target `negative_reward`.
    """

    needs_transitions = True

    def __init__(self, args: SupervisedQConfig, learner: Learner) -> None:
        super().__init__(args, learner)
        what = f"algorithm {args.algorithm!r}"
        self.encoder = dot_product(self.model, what)
        self.head = QHead(self.model, what)
        self.rewards = RewardRange(self.model.device)
        self._modules |= {"head": self.head, "reward_range": self.rewards}
        self.target = TargetNetwork(self.model, what) if args.bootstraps else None
        if self.target is not None:
            self._modules["target"] = self.target
        if args.target in ("remaining", "past") and not self.model.history_length:
            raise ConfigError(
                f"target = {args.target!r} is a number of events over the number of items that the "
                f"model reads, and {type(self.model).__name__} reads none; use another target."
            )
        self._step = 0

    def prepare(self, batch: RLBatch, generator: torch.Generator) -> QTargets:
        """Compute the targets of the logged actions and of the drawn items."""
        args, transitions = self.args, transitions_of(batch)
        values, discounts = self._values(batch.queries.state_users, transitions)
        if not self._step:
            self._initialise(values[~transitions.masked], discounts[~transitions.masked])
        self.rewards.update(values)
        is_used, targets = ~transitions.masked, values
        with eval_mode(self.model):
            if self.target is not None:
                next_values, is_known = self._next_values(self.target, transitions)
                targets, is_used = values + discounts * next_values, is_used & is_known
            items, targets = transitions.actions[:, None], targets[:, None]
            if args.num_negatives:
                drawn = self._draw_negatives(transitions.actions, generator)
                items = torch.cat([items, drawn], dim=1)
                targets = torch.cat([targets, self.targets_of_negatives(batch, drawn)], dim=1)
        is_clamped = self._is_outside(targets[:, 0])
        return QTargets(items, targets.clamp(*self._bounds()), is_used, is_clamped)

    def loss(
        self, batch: RLBatch, prepared: QTargets, generator: torch.Generator
    ) -> tuple[Tensor, Statistics]:
        """Return the weighted cross-entropy plus the temporal differences."""
        args, statistics = self.args, Statistics()
        policy = self.distribution(self.model, batch)
        users, items = vectors_of(policy)
        users, items = users if args.train_encoder else users.detach(), items.detach()
        q = self.head(users, items[prepared.items])
        td_loss = self._td_loss(q, prepared, statistics)
        vectors = (users, items)
        td_loss = td_loss + self.auxiliary_loss(vectors, batch, prepared, generator, statistics)
        states = torch.nonzero(~transitions_of(batch).masked)[:, 0]
        weights = self._actor_weights(q[:, 0].detach(), users.detach(), items)
        logged = Rewards(states, prepared.items[states, 0], weights[states])
        loss = cross_entropy(policy, logged, statistics) + args.q_coef * td_loss
        if args.conservative_coef:
            vectors = Embeddings(self.head.query(users), items)
            softmax = distribution_over_items(vectors)(vectors, seen=batch.queries.seen)
            alike = logged._replace(values=torch.ones_like(logged.values))
            loss = loss + args.conservative_coef * cross_entropy(softmax, alike)
        return loss, statistics

    def auxiliary_loss(
        self,
        vectors: tuple[Tensor, Tensor],
        batch: RLBatch,
        prepared: QTargets,
        generator: torch.Generator,
        statistics: Statistics,
    ) -> Tensor:
        """Return what a subclass adds to the temporal differences; nothing here.

        Args:
            vectors: float[B, D] of the states, with gradient if they are trained, and float[I, D]
                of the items, without.
            batch: see `Algorithm.loss`.
            prepared: the result of `prepare`.
            generator: see `Algorithm.loss`.
            statistics: what to log.
        """
        del batch, prepared, generator, statistics
        return vectors[0].new_zeros(())

    def after_step(self, step: int) -> None:
        """Move the target network towards the model, and note the number of steps."""
        self._step = step
        if self.target is not None:
            self.target.follow(self.model, self.head, self.args.tau)

    def _values(self, users: Tensor, transitions: Transitions) -> tuple[Tensor, Tensor]:
        """Return float[B] twice: the part of each target that is given, and the discount."""
        none, target = torch.zeros_like(transitions.rewards), self.args.target
        if target == "random":
            return _fixed_numbers(users, transitions).to(none), none
        if target in ("max", "sarsa"):
            return transitions.rewards, transitions.discounts if self.args.bootstraps else none
        events = transitions.remaining if target == "remaining" else transitions.elapsed
        # Of a long history the number may be many times the length, whose square would outweigh
        # the cross-entropy; the authors' sessions are no longer than what their model reads.
        return (events.to(none) / self.model.history_length).clamp(max=1), none

    def _initialise(self, values: Tensor, discounts: Tensor) -> None:
        """Set Q to the mean return: the constant that equals its own mean target."""
        total, left, count = (
            distributed.data_sum(float(part))
            for part in (values.sum(), (1 - discounts).sum(), len(values))
        )
        # Events of one day have the discount 1, and then the sum may be 0.
        gamma = self.args.gamma if self.args.bootstraps else 0.0
        mean = total / max(left, (1 - gamma) * count) if count else 0.0
        self.head.constant.fill_(mean)
        if self.target is not None:
            self.target.head.constant.fill_(mean)

    def _next_values(
        self, target: TargetNetwork, transitions: Transitions
    ) -> tuple[Tensor, Tensor]:
        """Return float[B], the values of the next states, and bool[B], whether they are known."""
        queries, actions = transitions.next_queries, transitions.next_actions
        if queries is None:
            return torch.zeros_like(transitions.rewards), torch.ones_like(transitions.masked)
        if self.args.target == "max":
            return self._best_values(target, queries), torch.ones_like(transitions.masked)
        users, items = self.policy.embed(target.model, queries)
        is_known = actions >= 0
        if queries.seen is not None:  # a masked action is never regressed
            pairs = queries.seen.states * len(items) + queries.seen.items
            states = torch.arange(len(actions), device=actions.device)
            is_known &= ~torch.isin(states * len(items) + actions, pairs)
        values = target.head(users, items[actions.clamp(min=0)][:, None])[:, 0]
        return values, is_known | (transitions.discounts == 0)

    def _best_values(self, target: TargetNetwork, queries: Queries) -> Tensor:
        """Return float[B], the target network's Q of the best item that is not masked.

        The best item is chosen by the model (double) or by the target network. A state whose items
        are all masked has the value 0.
        """
        evaluator = chooser = (target.head, self.policy.embed(target.model, queries))
        if self.args.double:
            chooser = (self.head, self.policy.embed(self.encoder, queries))
        return best_values(chooser, evaluator, queries.seen)

    def _draw_negatives(self, actions: Tensor, generator: torch.Generator) -> Tensor:
        """Return int64[B, num_negatives], items other than the logged action."""
        shape, device = (len(actions), self.args.num_negatives), actions.device
        own = draw_generator(generator, device)
        drawn = torch.randint(self.model.n_items - 1, shape, generator=own, device=device)
        return drawn + (drawn >= actions[:, None])

    def targets_of_negatives(self, batch: RLBatch, drawn: Tensor) -> Tensor:
        """Return float[B, num_negatives], the targets of drawn items."""
        rewards = torch.full(drawn.shape, self.args.negative_reward, device=drawn.device)
        self.rewards.update(rewards)
        if self.target is None or not self.model.history_length:
            return rewards
        values = self._best_values(self.target, batch.queries)
        return rewards + self.args.gamma * values[:, None]

    def _bounds(self) -> tuple[Tensor, Tensor]:
        """Return the lowest and highest possible target."""
        gamma = self.args.gamma if self.args.bootstraps else 0.0
        return self.rewards.bounds(gamma, self.args.discount_unit)

    def _is_outside(self, returns: Tensor) -> Tensor:
        """Return whether returns are outside the possible ones by more than `_MARGIN` of them."""
        low, high = self._bounds()
        margin = _MARGIN * (high - low)
        return (returns < low - margin) | (returns > high + margin)

    def _actor_weights(self, q: Tensor, users: Tensor, items: Tensor) -> Tensor:
        """Return float[B], the weights of the cross-entropies up to a common factor."""
        if self.args.actor_weight == "none" or self._step < self.args.critic_warmup_steps:
            return torch.ones_like(q)
        if self.args.actor_weight == "q":
            return q.clamp(min=0)
        with torch.no_grad():
            return (q - self.head.mean(users, items)).clamp(0, _HIGHEST_ADVANTAGE)

    def _td_loss(self, q: Tensor, prepared: QTargets, statistics: Statistics) -> Tensor:
        """Return the mean loss of logged actions plus, summed for a state, that of drawn items."""
        used = prepared.is_used
        errors = td_errors(q, prepared.targets, self.args.td_loss)
        statistics.add("td_loss", errors[used, 0])
        statistics.add("q_mean", q[used, 0])
        statistics.add("q_outside", self._is_outside(q[used, 0]).float())
        statistics.add("target_mean", prepared.targets[used, 0])
        statistics.add("target_clamped", prepared.is_clamped[used].float())
        return mean_of_processes(errors[used, 0]) + mean_of_processes(errors[:, 1:].sum(dim=1))


def _fixed_numbers(users: Tensor, transitions: Transitions) -> Tensor:
    """Return float[B] in [0, 1): a hash of each event, the same whenever the event is seen."""
    keys = users
    for part in (transitions.elapsed, transitions.remaining, transitions.actions):
        keys = keys * 6364136223846793005 + part + 1442695040888963407  # wraps around
        keys = keys ^ (keys >> 29)
    return ((keys >> 11) & (2**24 - 1)) / 2**24
