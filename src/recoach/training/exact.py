"""The exact estimator: GRPO's surrogate as an expectation over the whole catalogue."""

import torch
from torch import Tensor, nn

from recoach import distributed
from recoach.models.distribution import Block, Distribution
from recoach.policy.objective import exact_surrogate, log_weight, objective
from recoach.policy.rewards import CombinedReward
from recoach.training.config import GRPOConfig
from recoach.training.estimators import (
    Regulariser,
    RLBatch,
    Rollout,
    Statistics,
    clip_of,
    log_block,
    rewarded_pairs,
    with_reference,
)


class ExactEstimator:
    """The expectation over the catalogue: one pass over it, as for one cross-entropy.

    What the log pays goes through the transform f(p), pair by pair; what items pay whoever is
    shown them is an expectation under the policy.
    """

    needs_reference = False
    head: nn.Module | None = None

    def __init__(self, args: GRPOConfig, rewarder: CombinedReward) -> None:
        self.args, self.rewarder = args, rewarder
        self.clip = clip_of(args)
        self._transform = (args.loss_type, args.pass_k, args.power)
        self._of_items = rewarder.of_items
        on_policy = args.num_iterations == 1 and args.old_model_sync_steps == 1
        same_mask = args.disable_dropout or args.shared_dropout
        # One pass can scale its loss by its own weights only where they scale all of it.
        alone = not (args.beta or args.entropy_coef) and self._of_items is None
        self.needs_rollout = not (on_policy and same_mask and alone)

    def roll_out(self, old: Distribution, task: RLBatch, generator: torch.Generator) -> Rollout:
        """Return the old log-probabilities of the rewarded items."""
        del generator  # nothing is drawn
        parts = [
            block.log_p(*rewarded_pairs(task.rewards, block)[:2]).detach() for block in old.blocks()
        ]
        return Rollout(torch.cat(parts))

    def loss(
        self,
        new: Distribution,
        task: RLBatch,
        rollout: Rollout | None,
        reference: Distribution | None,
    ) -> tuple[Tensor, Statistics]:
        """Return minus the expected surrogate, plus the penalty."""
        statistics, weights = Statistics(), []
        known = 1.0 if rollout is None else self._divisor([self._weight(rollout.log_p)], task)
        penalty = Regulariser(self.args, task, statistics)
        # What the log pays is scaled to average 1 by `known`, its weights with it.
        count = penalty.count * (self.rewarder.log_weight if self.args.normalize_weights else 1)

        def block_loss(block: Block, reference_block: Block | None) -> Tensor:
            states, items, values, where = rewarded_pairs(task.rewards, block)
            log_p = block.log_p(states, items)
            old = log_p.detach() if rollout is None else rollout.log_p[where]
            weight = self._weight(old)
            weights.append(weight)
            surrogate = exact_surrogate(log_p, old, weight, self.clip)
            self._log(statistics, log_p.detach(), (states, values), len(block))
            log_block(statistics, surrogate, block)
            gain = (values * surrogate.value).sum() / known
            if self._of_items is not None:
                gain = gain + self._expected(block, task, statistics) / count
            return penalty.of(block, reference_block) - gain

        total = with_reference(new, block_loss, reference)
        self._log_parts(statistics, task)
        return (total / self._divisor(weights, task) if rollout is None else total), statistics

    def _expected(self, block: Block, task: RLBatch, statistics: Statistics) -> Tensor:
        """Return what items are expected to pay, summed over states."""
        if self._of_items is None:
            raise ValueError("no reward function is of items")
        values = self._of_items.to(block.p.device)
        if task.candidates is not None:
            values = values[task.candidates.items]
        mean = block.expectation(values)
        statistics.add("rewards/items/mean", mean)
        return mean.sum()

    def _weight(self, old_log_p: Tensor) -> Tensor:
        weight = log_weight(old_log_p, *self._transform)
        if self.args.advantage_clip is None:
            return weight
        # The advantage of a hit is A+ = f'(p)(1-p) = w (1-p)/p.
        p = old_log_p.exp()
        return weight.minimum(self.args.advantage_clip * p / (1 - p).clamp(min=1e-8))

    def _divisor(self, weights: list[Tensor], task: RLBatch) -> float:
        if not self.args.normalize_weights:
            return distributed.data_sum(len(task.queries))
        total = distributed.data_sum(float((torch.cat(weights) * task.rewards.values).sum()))
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

    def _log_parts(self, statistics: Statistics, task: RLBatch) -> None:
        """Log what each of several functions paid for an average rewarded pair."""
        parts = task.rewards.parts
        if parts is not None and len(self.rewarder.names) > 1:
            for name, part in zip(self.rewarder.names, parts, strict=False):  # items' come last
                statistics.add(f"rewards/{name}/mean", part)
