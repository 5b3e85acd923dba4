"""Two estimators of GRPO's surrogate: over the whole catalogue, and from drawn groups."""

from collections import defaultdict
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from recoach.data.batch import Queries
from recoach.evaluation.ranking import between
from recoach.models.base import Embedded, Recommender
from recoach.models.softmax import Block
from recoach.policy.candidates import Candidates
from recoach.policy.objective import (
    Clip,
    Surrogate,
    clipped_surrogate,
    exact_surrogate,
    group_advantages,
    log_weight,
    objective,
    sampled_kl,
)
from recoach.policy.policy import Policy
from recoach.policy.rewards import Rewards
from recoach.training.config import GRPOConfig

_ENTROPY_STATES = 32
"""States of a step whose entropy is logged: an estimate, not worth a pass over all."""
_RESAMPLES = 3


class Task(NamedTuple):
    """One batch of states and what their futures reward."""

    queries: Queries
    rewards: Rewards
    candidates: Candidates | None = None
    """The part of the catalogue that stands for all of it; items are numbered within it."""

    def embed(self, policy: Policy, model: Recommender) -> Embedded:
        """Return the policy's vectors of the states and of the items that take part."""
        users, items = policy.embed(model, self.queries)
        return Embedded(users, items if self.candidates is None else items[self.candidates.items])

    @property
    def bias(self) -> Tensor | None:
        """float[C] log of how many items each candidate stands for."""
        return self.candidates and self.candidates.log_weights


class Rollout(NamedTuple):
    """What the old policy did, fixed for all updates on a batch."""

    log_p: Tensor
    """float[N] of the rewarded items (exact), or float[B, G] of the drawn ones."""
    items: Tensor | None = None
    """int64[B, G] drawn items."""
    rewards: Tensor | None = None
    """float[B, G] what each drawn item earned."""


class Statistics:
    """Sums and counts of what is logged under TRL's names."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = defaultdict(list)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, name: str, values: Tensor) -> None:
        """Count every element of a tensor into the average of a name."""
        self._sums[name].append(values.detach().sum())
        self._counts[name] += values.numel()

    def means(self) -> dict[str, float]:
        """Return the averages; a name without elements is 0."""
        # Read once, at the end: on a GPU every float() waits for all that is under way.
        return {
            name: sum(float(part) for part in parts) / max(1, self._counts[name])
            for name, parts in self._sums.items()
        }


class Estimator(Protocol):
    """A way to estimate the surrogate of Eq. 5 and its gradient."""

    remembers: bool
    """Whether an update needs a rollout; on policy the probabilities of its own pass serve."""

    def roll_out(self, old: Embedded, task: Task, generator: torch.Generator) -> Rollout:
        """Return what the old policy did."""

    def loss(
        self, new: Embedded, task: Task, rollout: Rollout | None, reference: Embedded | None
    ) -> tuple[Tensor, Statistics]:
        """Return the loss and what to log."""


class ExactEstimator:
    """The expectation over the catalogue: one pass over it, as for one cross-entropy."""

    def __init__(self, args: GRPOConfig, policy: Policy) -> None:
        self.args, self.policy, self.clip = args, policy, _clip(args)
        self._transform = (args.loss_type, args.pass_k, args.power)
        on_policy = args.num_iterations == 1 and args.old_model_sync_steps == 1
        same_mask = args.disable_dropout or args.shared_dropout
        self.remembers = not (on_policy and same_mask and args.beta == 0)

    def roll_out(self, old: Embedded, task: Task, generator: torch.Generator) -> Rollout:
        """Return the old log-probabilities of the rewarded items."""
        del generator  # nothing is drawn
        parts = [
            block.log_p(*_earned(task.rewards, block)[:2]).detach()
            for block in self.policy.catalogue(old, task.queries.seen, task.bias).blocks(old.users)
        ]
        return Rollout(torch.cat(parts))

    def loss(
        self, new: Embedded, task: Task, rollout: Rollout | None, reference: Embedded | None
    ) -> tuple[Tensor, Statistics]:
        """Return minus the expected surrogate, plus the KL."""
        statistics, weights = Statistics(), []
        known = 1.0 if rollout is None else self._divisor([self._weight(rollout.log_p)], task)
        penalty = _Penalty(self.args, self.policy, task, reference, statistics)

        def block_loss(block: Block) -> Tensor:
            states, items, values, where = _earned(task.rewards, block)
            log_p = block.log_p(states, items)
            old = log_p.detach() if rollout is None else rollout.log_p[where]
            weight = self._weight(old)
            weights.append(weight)
            surrogate = exact_surrogate(log_p, old, weight, self.clip)
            self._log(statistics, log_p.detach(), (states, values), len(block))
            _log_block(statistics, surrogate, block)
            return penalty.of(block) - (values * surrogate.value).sum() / known

        total = self.policy.loss(new, block_loss, task.queries.seen, task.bias)
        return (total / self._divisor(weights, task) if rollout is None else total), statistics

    def _weight(self, old_log_p: Tensor) -> Tensor:
        return log_weight(old_log_p, *self._transform)

    def _divisor(self, weights: list[Tensor], task: Task) -> float:
        if not self.args.normalize_weights:
            return float(len(task.queries))
        total = float((torch.cat(weights) * task.rewards.values).sum())
        return total if total > 0 else 1.0

    def _log(
        self, statistics: Statistics, log_p: Tensor, earned: tuple[Tensor, Tensor], count: int
    ) -> None:
        states, values = earned
        p, empty = log_p.exp(), log_p.new_zeros(count)
        mean = empty.index_add(0, states, p * values)
        square = empty.index_add(0, states, p * values.square())
        statistics.add("reward", mean)
        statistics.add("reward_std", (square - mean.square()).clamp(min=0).sqrt())
        statistics.add("frac_reward_zero_std", (square == 0).float())
        statistics.add("policy/p_mean", p)
        statistics.add("objective", objective(log_p, *self._transform))


class SampledEstimator:
    """The paper's: groups of G items drawn from the old policy."""

    def __init__(self, args: GRPOConfig, policy: Policy) -> None:
        self.args, self.policy, self.clip = args, policy, _clip(args)
        self.remembers = True

    def roll_out(self, old: Embedded, task: Task, generator: torch.Generator) -> Rollout:
        """Draw a group for each state and note what its items earned."""
        catalogue = self.policy.catalogue(old, task.queries.seen, task.bias)
        parts = [self._draw(block, task, generator) for block in catalogue.blocks(old.users)]
        return Rollout(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def _draw(
        self, block: Block, task: Task, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        earned, n_items = _earned(task.rewards, block)[:3], block.p.shape[1]
        drawn = self._group(block, generator)
        rewards = _worth(drawn, n_items, earned)
        how = self.args.dead_groups
        for _ in range({"resample": _RESAMPLES, "force_positive": 1}.get(how, 0)):
            dead = rewards.amax(dim=1) == rewards.amin(dim=1)
            if not bool(dead.any()):
                break
            if how == "resample":
                drawn[dead] = self._group(block, generator)[dead]
            else:
                drawn = _with_a_reward(drawn, dead, earned, generator)
            rewards = _worth(drawn, n_items, earned)
        return block.log_p_of(drawn).detach(), drawn, rewards

    def _group(self, block: Block, generator: torch.Generator) -> Tensor:
        draw = block.draw if self.args.replacement else block.draw_distinct
        return draw(self.args.num_generations, generator)

    def loss(
        self, new: Embedded, task: Task, rollout: Rollout | None, reference: Embedded | None
    ) -> tuple[Tensor, Statistics]:
        """Return minus the clipped surrogate over groups and states, plus the KL."""
        if rollout is None or rollout.items is None or rollout.rewards is None:
            raise ValueError("the sampled estimator learns from a rollout")
        drawn = rollout.items
        advantages = group_advantages(rollout.rewards, scale=self.args.loss_type == "grpo")
        statistics = Statistics()
        penalty = _Penalty(self.args, self.policy, task, reference, statistics)

        def block_loss(block: Block) -> Tensor:
            log_p = block.log_p_of(drawn[block.which])
            log_ratio = log_p - rollout.log_p[block.which]
            surrogate = clipped_surrogate(log_ratio, advantages[block.which], self.clip)
            statistics.add("log_ratio/abs_mean", log_ratio.detach().abs())
            _log_block(statistics, surrogate, block)
            gain = surrogate.value.mean(dim=1).sum() / len(task.queries)
            return penalty.of(block, drawn[block.which], log_p) - gain

        spread = rollout.rewards.square().mean(dim=1).sub_(rollout.rewards.mean(dim=1).square())
        spread = spread.clamp_(min=0).sqrt_()
        statistics.add("reward", rollout.rewards)
        statistics.add("reward_std", spread)
        statistics.add("frac_reward_zero_std", (spread == 0).float())
        loss = self.policy.loss(new, block_loss, task.queries.seen, task.bias)
        return loss, statistics


class _Penalty:
    """beta times the KL to the reference: over the catalogue, or from the drawn items."""

    def __init__(
        self,
        args: GRPOConfig,
        policy: Policy,
        task: Task,
        reference: Embedded | None,
        statistics: Statistics,
    ) -> None:
        self.args, self.reference, self.statistics = args, reference, statistics
        self.scale = args.beta / len(task.queries)
        if reference is not None:
            self.catalogue = policy.catalogue(reference, task.queries.seen, task.bias)

    def of(
        self, block: Block, drawn: Tensor | None = None, log_p: Tensor | None = None
    ) -> Tensor | float:
        if self.reference is None:
            return 0.0
        there = self.catalogue.block(self.reference.users[block.which], block.which)
        how = self.args.kl_estimator
        if drawn is not None and log_p is not None and how in ("k1", "k2", "k3"):
            kl = sampled_kl(log_p, there.log_p_of(drawn).detach(), how).mean(dim=1)
        else:
            kl = block.kl(there)
        self.statistics.add("kl", kl)
        # Eq. 5 as printed compares the old policy with the reference: nothing in it moves.
        kl = kl.detach() if how == "literal" else kl
        return self.scale * kl.sum()


def _clip(args: GRPOConfig) -> Clip:
    return Clip(args.epsilon, args.epsilon_high or args.epsilon)


def _earned(rewards: Rewards, block: Block) -> tuple[Tensor, Tensor, Tensor, slice]:
    """Return state within the block, item and value of what its states may earn, and where."""
    where = between(rewards.states, block.which.start, block.which.stop)
    states = rewards.states[where] - block.which.start
    return states, rewards.items[where], rewards.values[where], where


def _worth(drawn: Tensor, n_items: int, earned: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return float[b, G], what each drawn item earns: a rewarded one's draws stand together."""
    states, items, values = earned
    rows = torch.arange(len(drawn), device=drawn.device)
    keys = (drawn + rows[:, None] * n_items).view(-1)
    wanted = states * n_items + items
    first = torch.searchsorted(keys, wanted)
    count = torch.searchsorted(keys, wanted, right=True) - first
    pair = torch.repeat_interleave(torch.arange(len(items), device=drawn.device), count)
    within = torch.arange(len(pair), device=drawn.device) - (count.cumsum(0) - count)[pair]
    rewards = values.new_zeros(drawn.numel())
    rewards[first[pair] + within] = values[pair]
    return rewards.view(drawn.shape)


def _with_a_reward(
    drawn: Tensor, dead: Tensor, earned: tuple[Tensor, ...], generator: torch.Generator
) -> Tensor:
    """Put a state's first rewarded item in the place of one of its draws, where it has any."""
    states, items = earned[:2]
    first = torch.ones_like(states, dtype=torch.bool)
    first[1:] = states[1:] != states[:-1]
    chosen = first & dead[states]
    place = torch.randint(
        drawn.shape[1], (int(chosen.sum()),), generator=generator, device=drawn.device
    )
    drawn[states[chosen], place] = items[chosen]
    return drawn.sort(dim=1).values


def _log_block(statistics: Statistics, surrogate: Surrogate, block: Block) -> None:
    statistics.add("clip_ratio/low_mean", surrogate.clipped_low)
    statistics.add("clip_ratio/high_mean", surrogate.clipped_high)
    if block.which.start == 0:
        statistics.add("entropy", block.entropy(_ENTROPY_STATES))
