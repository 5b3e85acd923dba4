"""The off-policy actor-critic for recommenders (Chen et al. 2022, RecSys)."""

import copy
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from recoach import distributed
from recoach.data.queries import Queries
from recoach.models.base import dot_product, eval_mode, frozen_copy
from recoach.models.distribution import Block, Distribution
from recoach.models.softmax import BlockwiseDistribution
from recoach.training.algorithms.base import (
    Algorithm,
    Learner,
    RLBatch,
    Statistics,
    draw_generator,
    transitions_of,
)
from recoach.training.algorithms.behaviour import (
    BehaviourConfig,
    ImportanceWeights,
    LoggingPolicy,
)
from recoach.training.algorithms.state_vectors import item_vectors, linear_head
from recoach.training.algorithms.td_learning import RewardRange, polyak_update
from recoach.training.transition_config import TransitionConfig
from recoach.training.transitions import Transitions

_WHAT = "algorithm 'off_policy_actor_critic'"


class OffPolicyActorCriticConfig(TransitionConfig, BehaviourConfig):
    """Settings of the off-policy actor-critic."""

    algorithm: Literal["off_policy_actor_critic"] = "off_policy_actor_critic"
    """The algorithm of these settings."""

    behaviour: Literal["base", "head", "logged"] = "head"
    """See `top_k_off_policy`."""
    num_critics: int = Field(default=2, ge=1)
    """Q heads; the lowest of their values counts (pessimism)."""
    weighted_critic: bool = True
    """Weight the critic's squared error of an action by min(p / b, 1), which takes it to the
    actions that the policy would choose."""
    num_negatives: int = Field(default=10, ge=0)
    """Uniformly drawn items per state whose reward is 0 and which leave the state as it is (SNQN,
    Xin et al. 2022). In a log that has only rewarded actions nothing else tells Q of the others."""
    train_encoder: bool = False
    """Train the model through the critic's loss too; otherwise its gradient stops at the state
    vectors."""
    tau: float = Field(default=0.005, gt=0, le=1)
    """Part of the Q heads in a step's update of the target heads (Polyak averaging)."""

    @property
    def accepts_negative_rewards(self) -> bool:
        """Whether rewards may be negative: the advantage has either sign."""
        return True


class Critic(nn.Module):
    """Q(s, a) = (W s + b) · g_a + c_a, which is 0 at first.

    Args:
        query: W and b, from state vectors to as many numbers, both 0.
        items: float[I, D] initial values of g.
    """

    def __init__(self, query: nn.Linear, items: Tensor) -> None:
        super().__init__()
        self.query, self.items = query, nn.Parameter(items)
        self.bias = nn.Parameter(items.new_zeros(len(items)))

    def of_items(self, states: Tensor, items: Tensor) -> Tensor:
        """Return float[B, C], Q of int64[B, C] items for float[B, D] states."""
        q: Tensor = torch.einsum("bd,bcd->bc", self.query(states), self.items[items])
        return q + self.bias[items]

    def of_catalogue(self, states: Tensor) -> Tensor:
        """Return float[B, I], Q of all items."""
        return torch.addmm(self.bias, self.query(states), self.items.T)


class CriticTargets(NamedTuple):
    """What stays fixed for a batch."""

    base: Distribution | None
    """The logging policy where it is the base."""
    items: Tensor
    """int64[B, 1 + num_negatives] the logged action, then drawn items."""
    targets: Tensor
    """float[B, 1 + num_negatives] the target of Q for each item."""


class ActorPass(NamedTuple):
    """What the pass over the policy computes, for the logged actions of a batch."""

    loss: Tensor
    ratios: Tensor
    """float[B] the capped ratios of policy and behaviour; 0 for an action that is not used."""


class OffPolicyActorCritic(Algorithm[OffPolicyActorCriticConfig, CriticTargets]):
    """Weights log p of logged actions by their advantage under a critic of the policy itself.

    The critic learns the value of the policy, not of the log: its target is expected SARSA,
    r + gamma · sum of p(a | next state) Q(next state, a) over the whole catalogue, by the target
    heads, whose lowest value counts. The actor's loss is that of top-K off-policy REINFORCE with
    the advantage Q(s, a) - sum of p(a | s) Q(s, a) in place of the return:
    -min(p/b, max_ratio) (1-p)^(K-1) A log p, averaged over actions. Targets are clamped to the
    possible returns. Target heads read the state vectors of the current model.

    Only the abstract of the paper could be read, which names importance weights, pessimism and a
    softmax actor; the networks and the negatives are ours.
    """

    needs_transitions = True

    def __init__(self, args: OffPolicyActorCriticConfig, learner: Learner) -> None:
        super().__init__(args, learner)
        model = self.dot_product_model = dot_product(self.model, _WHAT)
        vectors = item_vectors(model, self.policy, _WHAT)
        # Heads that began alike would stay alike; a generator of its own leaves the global state.
        noise = torch.Generator().manual_seed(0)
        scale = vectors.std()
        self.critics = [
            Critic(
                linear_head(model, vectors.shape[1], _WHAT),
                vectors + scale * torch.randn(vectors.shape, generator=noise).to(vectors),
            )
            for _ in range(args.num_critics)
        ]
        self.targets = [copy.deepcopy(c).requires_grad_(requires_grad=False) for c in self.critics]
        self.rewards = RewardRange(model.device)
        self._modules |= {
            "critics": nn.ModuleList(self.critics),
            "target_critics": nn.ModuleList(self.targets),
            "reward_range": self.rewards,
        }
        self.base, self.logging = None, None
        if args.behaviour == "base":
            self.base = frozen_copy(self.model)
        else:
            self.logging = LoggingPolicy(args, learner)
            if self.logging.head is not None:
                self._modules["behaviour"] = self.logging.head

    def prepare(self, batch: RLBatch, generator: torch.Generator) -> CriticTargets:
        """Compute the critic's targets of the logged actions and of the drawn items."""
        transitions = transitions_of(batch)
        self.rewards.update(transitions.rewards)
        targets, items = transitions.rewards, transitions.actions[:, None]
        with eval_mode(self.model):
            if transitions.next_queries is not None:
                values = self.state_values(transitions.next_queries)
                targets = targets + transitions.discounts * values
            targets = targets[:, None]
            if self.args.num_negatives:
                shape = (len(items), self.args.num_negatives)
                own = draw_generator(generator, items.device)
                drawn = torch.randint(self.model.n_items, shape, generator=own, device=items.device)
                values = self._values_of_drawn(batch)
                items = torch.cat([items, drawn], dim=1)
                targets = torch.cat([targets, values[:, None].expand(shape)], dim=1)
        base = None if self.base is None else self.distribution(self.base, batch)
        return CriticTargets(base, items, targets)

    def loss(
        self, batch: RLBatch, prepared: CriticTargets, generator: torch.Generator
    ) -> tuple[Tensor, Statistics]:
        """Return the actor's loss plus the critics', and the behaviour head's."""
        del generator  # the negatives are drawn in `prepare`
        statistics = Statistics()
        if batch.dropout_seed is not None:
            torch.manual_seed(batch.dropout_seed)
        model, queries = self.dot_product_model, batch.queries
        vectors = self.policy.embed(model, queries)
        policy = self.policy.of_vectors(vectors, queries.seen, workspace=model.workspace)
        log_b, behaviour_loss = self._behaviour(batch, policy, prepared, statistics)
        actor = self._actor(policy, log_b, transitions_of(batch), statistics)
        states = vectors.users if self.args.train_encoder else policy.users
        critic = self._critic_loss(states, prepared, actor.ratios, statistics)
        return actor.loss + critic + behaviour_loss, statistics

    def after_step(self, step: int) -> None:
        """Move the target heads towards the Q heads."""
        del step
        for target, critic in zip(self.targets, self.critics, strict=True):
            polyak_update(target, critic, self.args.tau)

    @torch.no_grad()
    def state_values(self, queries: Queries) -> Tensor:
        """Return float[B], the policy's mean of the target heads' lowest Q; masked items have none.

        A state whose items are all masked has the value 0.
        """
        model = self.dot_product_model
        vectors = self.policy.embed(model, queries)
        policy = self.policy.of_vectors(vectors, queries.seen, workspace=model.workspace)
        parts = [
            (block.p * lowest_q(self.targets, policy.users[block.which])).sum(dim=1)
            for block in policy.blocks()
        ]
        return torch.cat(parts)

    def _values_of_drawn(self, batch: RLBatch) -> Tensor:
        """Return float[B], the target of the drawn items of each state: nothing, then the state."""
        if not self.model.history_length:  # the state never changes: there is nothing after it
            return torch.zeros(len(batch.queries), device=self.model.device)
        return self.args.gamma * self.state_values(batch.queries)

    def _behaviour(
        self,
        batch: RLBatch,
        policy: BlockwiseDistribution,
        prepared: CriticTargets,
        statistics: Statistics,
    ) -> tuple[Tensor, Tensor]:
        """Return float[B], log b of the actions, and the loss of a behaviour head."""
        if self.logging is not None:
            return self.logging.log_probs(batch, policy, statistics)
        if prepared.base is None:
            raise ValueError("behaviour 'base' needs the base's policy")
        actions = prepared.items[:, 0]
        parts = [
            block.log_p_of(actions[block.which, None])[:, 0].detach()
            for block in prepared.base.blocks()
        ]
        return torch.cat(parts), policy.users.new_zeros(())

    def _actor(
        self,
        policy: BlockwiseDistribution,
        log_b: Tensor,
        transitions: Transitions,
        statistics: Statistics,
    ) -> ActorPass:
        """Return minus the weighted advantage times log p, averaged over the actions in use."""
        # An event without a propensity was no action of the logging policy.
        is_used = ~(transitions.masked | log_b.isnan())
        count = max(1.0, distributed.data_sum(int(is_used.sum())))
        weights = ImportanceWeights(self.args, statistics)
        ratios = torch.zeros_like(log_b)

        def block_loss(block: Block) -> Tensor:
            states = is_used[block.which].nonzero()[:, 0]
            actions, log_b_used = transitions.actions[block.which], log_b[block.which][states]
            log_p = block.log_p(states, actions[states])
            with torch.no_grad():
                q = lowest_q(self.critics, policy.users[block.which])
                advantages = q.gather(1, actions[:, None])[:, 0] - (block.p * q).sum(dim=1)
                advantages = advantages[states]
                weight, ratio = weights.of(log_p, log_b_used)
                ratios[block.which].index_copy_(0, states, ratio.to(ratios.dtype))
            statistics.add("advantage", advantages)
            return -(weight * advantages * log_p).sum() / count

        loss = policy.loss(block_loss)
        weights.log_effective_sample_size()
        return ActorPass(loss, ratios)

    def _critic_loss(
        self, states: Tensor, prepared: CriticTargets, ratios: Tensor, statistics: Statistics
    ) -> Tensor:
        """Return half the squared error of all heads, of logged actions plus of drawn items."""
        args, items = self.args, prepared.items
        targets = self.rewards.clamp(prepared.targets, args.gamma, args.discount_unit)
        is_used = items != items[:, :1]
        is_used[:, 0] = ratios > 0
        weights = is_used.to(targets.dtype)
        if args.weighted_critic:
            weights[:, 0] *= ratios.clamp(max=1)
        counts = [distributed.data_sum(int(n)) for n in (is_used[:, 0].sum(), is_used[:, 1:].sum())]
        divisors = torch.full_like(targets, max(1.0, counts[1]))
        divisors[:, 0] = max(1.0, counts[0])
        logged = is_used[:, 0]
        is_clamped = (targets != prepared.targets)[:, 0][logged]
        statistics.add("target_mean", targets[logged, 0])
        statistics.add("target_clamped", is_clamped.float())
        loss = states.new_zeros(())
        for critic in self.critics:
            q = critic.of_items(states, items)
            errors = (q - targets).square() / 2
            statistics.add("td_loss", errors[logged, 0])
            statistics.add("q_mean", q[logged, 0])
            loss = loss + (weights * errors / divisors).sum()
        return loss


def lowest_q(critics: Sequence[Critic], states: Tensor) -> Tensor:
    """Return float[B, I], the lowest Q of all heads for each item."""
    lowest = critics[0].of_catalogue(states)
    for critic in critics[1:]:
        torch.minimum(lowest, critic.of_catalogue(states), out=lowest)
    return lowest
