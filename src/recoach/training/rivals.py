"""Rival algorithms behind GRPO's own seam, so that a comparison changes nothing else.

States, rewards, masks, temperature, optimiser, selection and controls are GRPO's; only what is
made of a batch differs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recoach import distributed
from recoach.data.batches import Queries
from recoach.models.base import Recommender, dot_product, eval_mode
from recoach.models.distribution import Block, Distribution
from recoach.models.softmax import BlockwiseDistribution
from recoach.policy.rewards import CombinedReward
from recoach.training.config import GRPOConfig
from recoach.training.estimators import (
    Regulariser,
    RLBatch,
    Rollout,
    Statistics,
    rewarded_pairs,
    with_reference,
)
from recoach.training.sampled import SampledEstimator, lookup_rewards

_MOST_RATIO = 20.0
"""Cap of importance weights (about e^3, Chen et al. 2019)."""
_PREFERRED_OVER = 64
"""Drawn negatives of a preference."""
_OTHERS = 10
"""Drawn items that a Q head learns to be worth nothing (SNQN)."""
_GAMMA = 0.5
"""Discount of the Q head (Xin et al. 2020)."""


class Reinforce(SampledEstimator):
    """REINFORCE (Williams 1992): what is earned weighs the gradient, nothing is compared."""

    def advantages(self, parts: list[Tensor], old: Distribution) -> Tensor:
        """Return float[B, G], the rewards themselves."""
        del old
        return self.rewarder.total(parts)


class RAFT(SampledEstimator):
    """Rejection sampling (Dong et al. 2023): cross-entropy on the draws that earned something."""

    def advantages(self, parts: list[Tensor], old: Distribution) -> Tensor:
        """Return float[B, G], each draw's share of its group's rewards, of mean 1."""
        del old
        rewards = self.rewarder.total(parts).clamp(min=0)
        return rewards / rewards.mean(dim=1, keepdim=True).clamp(min=1e-12)


class PPO(SampledEstimator):
    """PPO (Schulman et al. 2017): a value head, not the group, says what was to be expected."""

    def __init__(self, args: GRPOConfig, rewarder: CombinedReward, model: Recommender) -> None:
        super().__init__(args, rewarder)
        self.value = nn.Linear(_dim(model, "ppo"), 1, device=model.device)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)
        self.head = self.value

    def advantages(self, parts: list[Tensor], old: Distribution) -> Tensor:
        """Return float[B, G], what was earned beyond the state's value, whitened."""
        beyond: Tensor = self.rewarder.total(parts) - self.value(_state_vectors(old))
        everybodys = distributed.all_gather(beyond)
        return (beyond - everybodys.mean()) / (everybodys.std() + 1e-8)

    def loss(
        self,
        new: Distribution,
        task: RLBatch,
        rollout: Rollout | None,
        reference: Distribution | None,
    ) -> tuple[Tensor, Statistics]:
        """Return the clipped surrogate's loss plus the head's squared error."""
        loss, statistics = super().loss(new, task, rollout, reference)
        if rollout is None or rollout.rewards is None:
            raise ValueError("a value is learnt from a rollout's rewards")
        error = self.value(_state_vectors(new))[:, 0] - rollout.rewards.mean(dim=1)
        statistics.add("value_loss", error.square())
        return loss + distributed.mean_contribution(error.square()), statistics


class _OverLogged:
    """A loss over the pairs that the log rewards."""

    needs_reference = False
    needs_rollout = False
    head: nn.Module | None = None

    def __init__(self, args: GRPOConfig, rewarder: CombinedReward) -> None:
        self.args, self.rewarder = args, rewarder

    def roll_out(self, old: Distribution, task: RLBatch, generator: torch.Generator) -> Rollout:
        """Raise: nothing is drawn from an old policy."""
        raise NotImplementedError(f"{type(self).__name__} has no rollout")

    def _total(self, task: RLBatch) -> float:
        return distributed.data_sum(float(task.rewards.values.sum())) or 1.0


class TopKOffPolicy(_OverLogged):
    """Top-K off-policy REINFORCE (Chen et al. 2019), the base as the behaviour that made the log.

    The weight of log p is min(p/b, cap) (1-p)^(K-1), K being `pass_k`.
    """

    needs_reference = True

    def loss(
        self,
        new: Distribution,
        task: RLBatch,
        rollout: Rollout | None,
        reference: Distribution | None,
    ) -> tuple[Tensor, Statistics]:
        """Return minus the weighted log-likelihood of what the log rewards."""
        del rollout
        if reference is None:
            raise ValueError("importance weights need the behaviour's policy")
        statistics, total = Statistics(), self._total(task)
        penalty = Regulariser(self.args, task, statistics)

        def block_loss(block: Block, behaviour: Block) -> Tensor:
            states, items, values, _ = rewarded_pairs(task.rewards, block)
            log_p, log_b = block.log_p(states, items), behaviour.log_p(states, items).detach()
            p, now = log_p.detach().exp(), log_p.detach()
            ratio = (now - log_b).exp().clamp(max=_MOST_RATIO)
            weight = ratio * (1 - p) ** (self.args.pass_k - 1)
            statistics.add("policy/p_mean", p)
            statistics.add("importance_sampling_ratio/mean", ratio)
            return penalty.of(block, behaviour) - (values * weight * log_p).sum() / total

        return new.loss(block_loss, reference), statistics


class SDPO(_OverLogged):
    """Softmax-DPO (Chen et al. 2024): what the log rewards is preferred to random items.

    -log sigmoid(-log sum_j exp(beta (d_j - d_+))), d being the log-ratio to the base.
    """

    needs_reference = True

    def __init__(self, args: GRPOConfig, rewarder: CombinedReward, model: Recommender) -> None:
        super().__init__(args, rewarder)
        self.n_items = model.n_items

    def loss(
        self,
        new: Distribution,
        task: RLBatch,
        rollout: Rollout | None,
        reference: Distribution | None,
    ) -> tuple[Tensor, Statistics]:
        """Return the mean preference loss of the rewarded pairs."""
        del rollout
        if reference is None:
            raise ValueError("preferences are relative to a reference")
        statistics, total, beta = Statistics(), self._total(task), self.args.beta
        shape = (len(task.queries), _PREFERRED_OVER)
        device = task.queries.rows.device
        drawn = torch.randint(self.n_items, shape, device=device).sort(dim=1).values
        wanted = lookup_rewards(drawn, task.rewards[:3]) > 0

        def block_loss(block: Block, there: Block) -> Tensor:
            states, items, values, _ = rewarded_pairs(task.rewards, block)
            others = drawn[block.which]
            log_b = there.log_p_of(others).detach()
            gaps = beta * (block.log_p_of(others) - log_b)
            gaps = gaps.masked_fill(wanted[block.which] | (log_b == -torch.inf), -torch.inf)
            log_p = block.log_p(states, items)
            own = beta * (log_p - there.log_p(states, items).detach())
            margin = own - gaps.logsumexp(dim=1)[states]
            statistics.add("rewards/margins", margin.detach())
            statistics.add("policy/p_mean", log_p.detach().exp())
            return (values * functional.softplus(-margin)).sum() / total

        return new.loss(block_loss, reference), statistics


class SAC(_OverLogged):
    """SAC as in self-supervised RL for recommenders (Xin et al. 2020): a critic weighs the actor.

    A Q head is trained by temporal differences along the histories, drawn items being worth
    nothing (SNQN, 2022); the actor's log-likelihood of a rewarded item is weighted by its Q. Where
    a history is one state (graph models) there is no next one, and Q is what is paid.
    """

    def __init__(self, args: GRPOConfig, rewarder: CombinedReward, model: Recommender) -> None:
        super().__init__(args, rewarder)
        dim = _dim(model, "sac")
        self.query = nn.Linear(dim, dim, device=model.device)
        nn.init.eye_(self.query.weight)  # Q begins where the scores are
        nn.init.zeros_(self.query.bias)
        self.head = self.query

    def loss(
        self,
        new: Distribution,
        task: RLBatch,
        rollout: Rollout | None,
        reference: Distribution | None,
    ) -> tuple[Tensor, Statistics]:
        """Return the actor's loss plus the critic's."""
        del rollout
        statistics, rewards = Statistics(), task.rewards
        penalty = Regulariser(self.args, task, statistics)
        critic, q = self._critic(new, task)
        weight = q.detach().clamp(min=0)
        total = distributed.data_sum(float((rewards.values * weight).sum())) or 1.0

        def block_loss(block: Block, reference_block: Block | None) -> Tensor:
            states, items, values, where = rewarded_pairs(rewards, block)
            log_p = block.log_p(states, items)
            statistics.add("policy/p_mean", log_p.detach().exp())
            return (
                penalty.of(block, reference_block) - (values * weight[where] * log_p).sum() / total
            )

        statistics.add("q_loss", critic.detach())
        statistics.add("q_mean", q.detach())
        actor = with_reference(new, block_loss, reference)
        return actor + critic, statistics

    def _critic(self, new: Distribution, task: RLBatch) -> tuple[Tensor, Tensor]:
        """Return the Q head's squared error, and float[N], Q of the rewarded pairs."""
        users, items = self.query(_state_vectors(new)), _vectors(new).items
        states, logged, values = task.rewards[:3]
        with torch.no_grad():
            best = torch.cat([(part @ items.T).amax(dim=1) for part in users.split(512)])
            after = _next_states(task)
            ahead = torch.where(after >= 0, best[after], 0.0)
        q = (users[states] * items[logged]).sum(dim=1)
        drawn = torch.randint(len(items), (len(users), _OTHERS), device=items.device)
        q_drawn = (users[:, None] * items[drawn]).sum(dim=2)
        error = _squared(q, values + _GAMMA * ahead[states])
        # Who is shown something else stays where he is.
        return error + _squared(q_drawn, _GAMMA * best[:, None].expand_as(q_drawn)), q


def _squared(found: Tensor, wanted: Tensor) -> Tensor:
    return distributed.mean_contribution(functional.mse_loss(found, wanted, reduction="none"))


def _next_states(task: RLBatch) -> Tensor:
    """Return int64[B], where in the batch the same history stands one item later; -1 if nowhere."""
    queries = task.queries
    width = int(queries.ends.max()) + 2
    keys, order = (queries.rows * width + queries.ends).sort()
    wanted = queries.rows * width + queries.ends + 1
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, order[place], -1)


def _vectors(distribution: Distribution) -> BlockwiseDistribution:
    if not isinstance(distribution, BlockwiseDistribution):
        raise TypeError("a head over state vectors needs a policy of dot products")
    return distribution


def _state_vectors(distribution: Distribution) -> Tensor:
    """Return float[B, D], the states' vectors without gradient."""
    return _vectors(distribution).users


def _dim(model: Recommender, algorithm: str) -> int:
    """Return the width of a model's vectors; no table tells it of mixed scores."""
    one = torch.ones(1, dtype=torch.int64)
    state = Queries(users=one - 1, history=one[None] - 1, lengths=one, rows=one - 1, ends=one)
    with torch.no_grad(), eval_mode(model):
        users = dot_product(model, f"algorithm {algorithm!r}").embed(state.to(model.device)).users
        return int(users.shape[1])
