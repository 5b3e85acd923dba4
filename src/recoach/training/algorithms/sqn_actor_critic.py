"""The actor-critic of self-supervised Q-learning (Xin et al. 2020), with SNQN's negatives."""

from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recoach import distributed
from recoach.data.queries import Queries, Seen
from recoach.models.base import dot_product, eval_mode
from recoach.models.distribution import Block, Distribution
from recoach.training.algorithms.base import (
    Algorithm,
    Learner,
    RLBatch,
    Statistics,
    draw_generator,
    rewarded_pairs,
)
from recoach.training.algorithms.regulariser import (
    RegularisedConfig,
    Regulariser,
    with_reference,
)
from recoach.training.algorithms.state_vectors import linear_head, state_vectors
from recoach.training.transitions import Transitions

_STATES_AT_ONCE = 512


class SQNActorCriticConfig(RegularisedConfig):
    """Settings of the actor-critic with a Q head."""

    algorithm: Literal["sqn_actor_critic"] = "sqn_actor_critic"
    """The algorithm of these settings."""
    logged_rewards_only: ClassVar[bool] = True
    """See `FinetuneConfig`."""

    gamma: float = Field(default=0.5, ge=0, lt=1)
    """Discount of the value of the next state (0.5 in the paper)."""
    num_negatives: int = Field(default=10, ge=0)
    """Uniformly drawn items per state whose reward is 0 (SNQN, Xin et al. 2022)."""


class CriticTargets(NamedTuple):
    """What stays fixed for a batch."""

    reference: Distribution | None
    targets: Tensor
    """float[N] the target of Q for each rewarded pair."""
    negatives: Tensor
    """int64[B, num_negatives] drawn items."""
    negative_targets: Tensor
    """float[B] the target of Q for a state's negatives."""


class SQNActorCritic(Algorithm[SQNActorCriticConfig, CriticTargets]):
    """A Q head weights the log-likelihood of rewarded items (the actor).

    Q(s, a) is the product of a linear function of the state vector with the item vector. It is
    trained by temporal differences on the rewarded pairs, and on drawn items of reward 0, after
    which the state stays the same; its gradient stops at the vectors. The original (called SAC in
    the paper) trains Q through the encoder, with two networks. Here the next state's value comes
    from the same head; a terminated transition has none, a truncated one does.
    """

    needs_transitions = True

    def __init__(self, args: SQNActorCriticConfig, learner: Learner) -> None:
        super().__init__(args, learner)
        self.query = linear_head(learner.model, None, "algorithm 'sqn_actor_critic'")
        self._modules["head"] = self.query
        steps = args.ref_model_sync_steps
        self.reference = self.frozen_model("reference", steps) if args.beta > 0 else None

    def prepare(self, batch: RLBatch, generator: torch.Generator) -> CriticTargets:
        """Compute the targets of Q and draw the negatives."""
        states, _, values = batch.rewards[:3]
        with eval_mode(self.model):
            next_values = self._next_values(batch.transitions, len(batch.queries))
            own_values = self._state_values(batch.queries)
        device = batch.queries.rows.device
        own = draw_generator(generator, device)
        shape = (len(batch.queries), self.args.num_negatives)
        return CriticTargets(
            None if self.reference is None else self.distribution(self.reference, batch),
            values + self.args.gamma * next_values[states],
            torch.randint(self.model.n_items, shape, generator=own, device=device),
            self.args.gamma * own_values,
        )

    def loss(
        self, batch: RLBatch, prepared: CriticTargets, generator: torch.Generator
    ) -> tuple[Tensor, Statistics]:
        """Return the actor's loss plus the critic's."""
        del generator  # the negatives are drawn in `prepare`
        statistics, rewards = Statistics(), batch.rewards
        regulariser = Regulariser(self.args, batch, statistics)
        policy = self.distribution(self.model, batch)
        critic, q = self.critic_loss(policy, batch, prepared)
        weight = q.detach().clamp(min=0)
        total = distributed.data_sum(float((rewards.values * weight).sum())) or 1.0

        def block_loss(block: Block, reference_block: Block | None) -> Tensor:
            states, items, values, where = rewarded_pairs(rewards, block)
            log_p = block.log_p(states, items)
            statistics.add("policy/p_mean", log_p.detach().exp())
            gain = (values * weight[where] * log_p).sum() / total
            return regulariser.loss(block, reference_block) - gain

        # The critic's losses add up over processes, and statistics average over them.
        statistics.add("q_loss", critic.detach() * distributed.data_world_size())
        statistics.add("q_mean", q.detach())
        actor = with_reference(policy, block_loss, prepared.reference)
        return actor + critic, statistics

    def critic_loss(
        self, policy: Distribution, batch: RLBatch, prepared: CriticTargets
    ) -> tuple[Tensor, Tensor]:
        """Return the squared error of Q, and float[N], Q of the rewarded pairs."""
        users, items = self.query(state_vectors(policy)), policy.items  # type: ignore[attr-defined]
        states, rewarded = batch.rewards[:2]
        q = (users[states] * items[rewarded]).sum(dim=1)
        error = _squared_error(q, prepared.targets)
        if not self.args.num_negatives:
            return error, q
        q_negatives = (users[:, None] * items[prepared.negatives]).sum(dim=2)
        targets = prepared.negative_targets[:, None].expand_as(q_negatives)
        return error + _squared_error(q_negatives, targets), q

    def _next_values(self, transitions: Transitions | None, n_states: int) -> Tensor:
        """Return float[B], the highest Q of each next state; 0 after a terminated transition."""
        if transitions is None:
            raise ValueError("the critic needs the transitions of the batch")
        if transitions.next_queries is None:
            return torch.zeros(n_states, device=transitions.rewards.device)
        values = self._state_values(transitions.next_queries)
        return values.masked_fill(transitions.terminated, 0.0)

    def _state_values(self, queries: Queries) -> Tensor:
        """Return float[B], the highest Q of an item that is not masked."""
        model = dot_product(self.model, "algorithm 'sqn_actor_critic'")
        users, items = self.policy.embed(model, queries)
        return _max_products(self.query(users), items, queries.seen)


def _max_products(users: Tensor, items: Tensor, seen: Seen | None) -> Tensor:
    """Return float[B], the highest product over items that are not seen; 0 if all are."""
    parts = []
    for start in range(0, len(users), _STATES_AT_ONCE):
        scores = users[start : start + _STATES_AT_ONCE] @ items.T
        if seen is not None:
            scores[seen.between(start, start + _STATES_AT_ONCE)] = -torch.inf
        parts.append(scores.amax(dim=1))
    highest = torch.cat(parts)
    return highest.masked_fill(highest == -torch.inf, 0.0)


def _squared_error(q: Tensor, targets: Tensor) -> Tensor:
    return distributed.mean_contribution(functional.mse_loss(q, targets, reduction="none"))
