"""What the estimators of GRPO's surrogate share: tasks, rollouts, the penalty, what is logged."""

from collections import defaultdict
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from recoach import distributed
from recoach.data.batches import Queries
from recoach.evaluation.ranking import between
from recoach.models.base import TrainingBatch
from recoach.models.distribution import Block, BlockLoss, Distribution
from recoach.policy.candidates import Candidates
from recoach.policy.objective import Clip, Surrogate, sampled_kl
from recoach.policy.rewards import LoggedItems, Rewards
from recoach.training.config import GRPOConfig

_ENTROPY_STATES = 32
"""States of a step whose entropy is logged: an estimate, not worth a pass over all."""


class RLBatch(NamedTuple):
    """One batch of states and what their futures reward."""

    queries: Queries
    rewards: Rewards
    candidates: Candidates | None = None
    """The part of the catalogue that stands for all of it; items are numbered within it."""
    logged: LoggedItems | None = None
    """What the log knows of the states, where reward functions are asked about draws."""
    own: TrainingBatch | None = None
    """A batch for the model's own loss, where that goes along."""


class Rollout(NamedTuple):
    """What the old policy did, fixed for all updates on a batch."""

    log_p: Tensor
    """float[N] of the rewarded items (exact), or float[B, G] of the drawn ones."""
    items: Tensor | None = None
    """int64[B, G] drawn items."""
    rewards: Tensor | None = None
    """float[B, G] what each drawn item earned."""
    advantages: Tensor | None = None
    """float[B, G], relative to the group."""


def groups_of(rollout: Rollout | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return log-probabilities, items, rewards and advantages of a rollout that drew groups."""
    if rollout is None or rollout.items is None:
        raise ValueError("an estimator that draws learns from a rollout")
    if rollout.rewards is None or rollout.advantages is None:
        raise ValueError("draws are rewarded and compared before anything is learnt from them")
    return rollout.log_p, rollout.items, rollout.rewards, rollout.advantages


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
        """Return the averages over all processes; a name without elements is 0."""
        # Read once, at the end: on a GPU every float() waits for all that is under way.
        sums = [sum(float(part) for part in parts) for parts in self._sums.values()]
        counts = [self._counts[name] for name in self._sums]
        both = distributed.all_reduce_sum(
            torch.tensor([sums, counts], dtype=torch.float64)
        ).tolist()
        return {
            name: part / max(1, count) for name, part, count in zip(self._sums, *both, strict=True)
        }


class Estimator(Protocol):
    """A way to estimate the surrogate of Eq. 5 and its gradient."""

    needs_rollout: bool
    """Whether an update needs a rollout; on policy the probabilities of its own pass serve."""
    needs_reference: bool
    """Whether the base's own policy is needed even without a KL."""
    head: nn.Module | None
    """What is trained beside the model, if anything."""

    def roll_out(self, old: Distribution, task: RLBatch, generator: torch.Generator) -> Rollout:
        """Return what the old policy did."""

    def loss(
        self,
        new: Distribution,
        task: RLBatch,
        rollout: Rollout | None,
        reference: Distribution | None,
    ) -> tuple[Tensor, Statistics]:
        """Return the loss and what to log."""


class Regulariser:
    """What the policy pays for leaving the reference and for losing its entropy."""

    def __init__(
        self,
        args: GRPOConfig,
        task: RLBatch,
        statistics: Statistics,
    ) -> None:
        self.args, self.statistics = args, statistics
        self.count = distributed.data_sum(len(task.queries))
        """States of all processes."""

    def of(
        self,
        block: Block,
        reference: Block | None,
        drawn: Tensor | None = None,
        log_p: Tensor | None = None,
    ) -> Tensor | float:
        """Return beta times the KL (over the catalogue, or from drawn items) and the entropy's."""
        paid: Tensor | float = 0.0
        if self.args.entropy_coef:
            entropy, floor = block.entropies(), self.args.entropy_floor
            lost = -entropy if floor is None else (floor - entropy).clamp(min=0)
            paid = self.args.entropy_coef / self.count * lost.sum()
        return paid if reference is None else paid + self._kl(block, reference, drawn, log_p)

    def _kl(
        self, block: Block, reference: Block, drawn: Tensor | None, log_p: Tensor | None
    ) -> Tensor:
        how = self.args.kl_estimator
        if drawn is not None and log_p is not None and how in ("k1", "k2", "k3"):
            kl = sampled_kl(log_p, reference.log_p_of(drawn).detach(), how).mean(dim=1)
        else:
            kl = block.kl(reference)
        self.statistics.add("kl", kl)
        # Eq. 5 as printed compares the old policy with the reference: nothing in it moves.
        kl = kl.detach() if how == "literal" else kl
        return self.args.beta / self.count * kl.sum()


def clip_of(args: GRPOConfig) -> Clip:
    """Return how far the ratio may run."""
    return Clip(args.epsilon, args.epsilon_high or args.epsilon)


def rewarded_pairs(rewards: Rewards, block: Block) -> tuple[Tensor, Tensor, Tensor, slice]:
    """Return state within the block, item and value of what its states may earn, and where."""
    where = between(rewards.states, block.which.start, block.which.stop)
    states = rewards.states[where] - block.which.start
    return states, rewards.items[where], rewards.values[where], where


def log_block(statistics: Statistics, surrogate: Surrogate, block: Block) -> None:
    """Count where the clip acted and, once a step, the entropy."""
    statistics.add("clip_ratio/low_mean", surrogate.clipped_low)
    statistics.add("clip_ratio/high_mean", surrogate.clipped_high)
    if block.which.start == 0:
        statistics.add("entropy", block.entropy(_ENTROPY_STATES))


def with_reference(
    new: Distribution, block_loss: BlockLoss, reference: Distribution | None
) -> Tensor:
    """Return the sum of a loss of (block, reference block or None) over all states."""
    if reference is None:
        return new.loss(lambda block: block_loss(block, None))
    return new.loss(block_loss, reference)
