"""Two estimators of GRPO's surrogate: over the whole catalogue, and from drawn groups."""

from collections import defaultdict
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from recoach.data.batch import Queries
from recoach.evaluation.ranking import between
from recoach.models.base import Embedded
from recoach.models.softmax import BLOCK_SIZE, blockwise
from recoach.policy.objective import (
    Clip,
    Surrogate,
    clipped_surrogate,
    exact_kl,
    exact_surrogate,
    group_advantages,
    log_weight,
    objective,
    sampled_kl,
)
from recoach.policy.policy import Policy, seen_between
from recoach.policy.rewards import Rewards
from recoach.training.config import GRPOConfig


class Task(NamedTuple):
    """One batch of states and what their futures reward."""

    queries: Queries
    rewards: Rewards


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
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, name: str, values: Tensor) -> None:
        """Count every element of a tensor into the average of a name."""
        self._sums[name] += float(values.detach().double().sum())
        self._counts[name] += values.numel()

    def means(self) -> dict[str, float]:
        """Return the averages; a name without elements is 0."""
        return {name: self._sums[name] / max(1, self._counts[name]) for name in self._sums}


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
        self.remembers = args.num_iterations > 1 or not args.disable_dropout or args.beta > 0

    def roll_out(self, old: Embedded, task: Task, generator: torch.Generator) -> Rollout:
        """Return the old log-probabilities of the rewarded items."""
        del generator  # nothing is drawn
        parts = [
            self._log_p(self._logits(old, task, which), task.rewards, which)
            for which in _blocks(len(task.queries))
        ]
        return Rollout(torch.cat(parts))

    def loss(
        self, new: Embedded, task: Task, rollout: Rollout | None, reference: Embedded | None
    ) -> tuple[Tensor, Statistics]:
        """Return minus the expected surrogate, plus the KL."""
        statistics, args = Statistics(), self.args
        weights: list[Tensor] = []
        known = 1.0 if rollout is None else self._divisor([self._weight(rollout.log_p)], task)

        def block_loss(users: Tensor, items: Tensor, which: slice) -> Tensor:
            logits = self._logits(Embedded(users, items), task, which, sliced=True)
            log_p = self._log_p(logits, task.rewards, which)
            earned = between(task.rewards.states, which.start, which.stop)
            old = log_p.detach() if rollout is None else rollout.log_p[earned]
            weight = self._weight(old)
            weights.append(weight)
            surrogate = exact_surrogate(log_p, old, weight, self.clip)
            loss = -(task.rewards.values[earned] * surrogate.value).sum() / known
            self._log(statistics, log_p.detach(), surrogate, (task.rewards, which))
            if which.start == 0:
                statistics.add("entropy", _entropy(logits))
            if reference is not None:
                there = self._logits(reference, task, which)
                loss = loss + _dense_kl(logits, there, args, statistics) / len(task.queries)
            return loss

        total = blockwise(new.users, new.items, block_loss)
        return (total / self._divisor(weights, task) if rollout is None else total), statistics

    def _weight(self, old_log_p: Tensor) -> Tensor:
        return log_weight(old_log_p, self.args.loss_type, self.args.pass_k)

    def _divisor(self, weights: list[Tensor], task: Task) -> float:
        if not self.args.normalize_weights:
            return float(len(task.queries))
        total = float((torch.cat(weights) * task.rewards.values).sum())
        return total if total > 0 else 1.0

    def _logits(
        self, vectors: Embedded, task: Task, which: slice, *, sliced: bool = False
    ) -> Tensor:
        users = vectors.users if sliced else vectors.users[which]
        seen = seen_between(task.queries.seen, which.start, which.stop)
        return self.policy.logits(users, vectors.items, seen)

    @staticmethod
    def _log_p(logits: Tensor, rewards: Rewards, which: slice) -> Tensor:
        earned = between(rewards.states, which.start, which.stop)
        states = rewards.states[earned] - which.start
        return logits[states, rewards.items[earned]] - logits.logsumexp(dim=1)[states]

    def _log(
        self,
        statistics: Statistics,
        log_p: Tensor,
        surrogate: Surrogate,
        where: tuple[Rewards, slice],
    ) -> None:
        rewards, which = where
        earned = between(rewards.states, which.start, which.stop)
        states, values, p = (
            rewards.states[earned] - which.start,
            rewards.values[earned],
            log_p.exp(),
        )
        empty = p.new_zeros(which.stop - which.start)
        mean = empty.index_add(0, states, p * values)
        square = empty.index_add(0, states, p * values.square())
        statistics.add("reward", mean)
        statistics.add("reward_std", (square - mean.square()).clamp(min=0).sqrt())
        statistics.add("frac_reward_zero_std", (square == 0).float())
        statistics.add("policy/p_mean", p)
        statistics.add("objective", objective(log_p, self.args.loss_type, self.args.pass_k))
        _log_clip(statistics, surrogate)


class SampledEstimator:
    """The paper's: groups of G items drawn from the old policy, with replacement."""

    def __init__(self, args: GRPOConfig, policy: Policy) -> None:
        self.args, self.policy, self.clip = args, policy, _clip(args)
        self.remembers = True

    def roll_out(self, old: Embedded, task: Task, generator: torch.Generator) -> Rollout:
        """Draw a group for each state and note what its items earned."""
        parts = [self._draw(old, task, which, generator) for which in _blocks(len(task.queries))]
        return Rollout(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def _draw(
        self, old: Embedded, task: Task, which: slice, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits = self._logits(old.users[which], old.items, task, which)
        p = logits.softmax(dim=1)
        group = self.args.num_generations
        items = torch.multinomial(p, group, replacement=True, generator=generator)
        # In the words of `loss`, so that the first ratio is 1 to the last bit.
        log_p = logits.gather(1, items) - logits.logsumexp(dim=1, keepdim=True)
        earned = between(task.rewards.states, which.start, which.stop)
        worth = torch.zeros_like(p)
        rows = task.rewards.states[earned] - which.start
        worth[rows, task.rewards.items[earned]] = task.rewards.values[earned]
        return log_p, items, worth.gather(1, items)

    def loss(
        self, new: Embedded, task: Task, rollout: Rollout | None, reference: Embedded | None
    ) -> tuple[Tensor, Statistics]:
        """Return minus the clipped surrogate over groups and states, plus the KL."""
        if rollout is None or rollout.items is None or rollout.rewards is None:
            raise ValueError("the sampled estimator learns from a rollout")
        drawn = rollout.items
        advantages = group_advantages(rollout.rewards, scale=self.args.loss_type == "grpo")
        statistics, args = Statistics(), self.args

        def block_loss(users: Tensor, items: Tensor, which: slice) -> Tensor:
            logits = self._logits(users, items, task, which)
            log_p = logits.gather(1, drawn[which]) - logits.logsumexp(dim=1, keepdim=True)
            log_ratio = log_p - rollout.log_p[which]
            surrogate = clipped_surrogate(log_ratio, advantages[which], self.clip)
            loss = -surrogate.value.mean(dim=1).sum()
            _log_clip(statistics, surrogate)
            if which.start == 0:
                statistics.add("entropy", _entropy(logits))
            if reference is not None:
                there = self._logits(reference.users[which], reference.items, task, which)
                if args.kl_estimator in ("k1", "k2", "k3"):
                    log_q = there.log_softmax(dim=1).gather(1, drawn[which])
                    kl = sampled_kl(log_p, log_q, args.kl_estimator).mean(dim=1)
                    statistics.add("kl", kl)
                    loss = loss + args.beta * kl.sum()
                else:
                    loss = loss + _dense_kl(logits, there, args, statistics)
            return loss / len(task.queries)

        spread = rollout.rewards.std(dim=1, correction=0)
        statistics.add("reward", rollout.rewards)
        statistics.add("reward_std", spread)
        statistics.add("frac_reward_zero_std", (spread == 0).float())
        return blockwise(new.users, new.items, block_loss), statistics

    def _logits(self, users: Tensor, items: Tensor, task: Task, which: slice) -> Tensor:
        seen = seen_between(task.queries.seen, which.start, which.stop)
        return self.policy.logits(users, items, seen)


def _clip(args: GRPOConfig) -> Clip:
    return Clip(args.epsilon, args.epsilon_high or args.epsilon)


def _blocks(count: int) -> list[slice]:
    return [slice(a, min(a + BLOCK_SIZE, count)) for a in range(0, count, BLOCK_SIZE)]


def _log_clip(statistics: Statistics, surrogate: Surrogate) -> None:
    statistics.add("clip_ratio/low_mean", surrogate.clipped_low.float())
    statistics.add("clip_ratio/high_mean", surrogate.clipped_high.float())


def _entropy(logits: Tensor) -> Tensor:
    log_p = logits.detach().log_softmax(dim=1)
    return -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(dim=1)


def _dense_kl(
    logits: Tensor, reference: Tensor, args: GRPOConfig, statistics: Statistics
) -> Tensor:
    """Return beta times the KL over the catalogue, summed over states; constant if literal."""
    log_p = logits.log_softmax(dim=1)
    # Eq. 5 as printed compares the old policy with the reference: nothing in it moves.
    log_p = log_p.detach() if args.kl_estimator == "literal" else log_p
    kl = exact_kl(log_p, reference.log_softmax(dim=1))
    statistics.add("kl", kl)
    return args.beta * kl.sum()
