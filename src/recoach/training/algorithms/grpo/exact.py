"""The exact estimator: GRPO's surrogate as an expectation over the whole catalogue."""

import torch
from torch import Tensor

from recoach import distributed
from recoach.models.distribution import Block, Distribution
from recoach.policy.objective import (
    exact_surrogate,
    objective,
    signed_log_weight,
    whitened_weight,
)
from recoach.policy.rewards import CombinedReward
from recoach.training.algorithms.base import (
    RLBatch,
    Statistics,
    one_if_zero,
    rewarded_pairs,
)
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.regulariser import Regulariser, with_reference
from recoach.training.algorithms.rollouts import Rollout, log_surrogate


class ExactEstimator:
    """The expectation of the surrogate over the catalogue, in one pass, as in cross-entropy.

    A logged reward multiplies the transform f of its item's probability; a negative one lowers the
    probability (`recoach.policy.objective`). Rewards of items enter as their expectation under the
    policy.
    """

    def __init__(self, args: GRPOConfig, reward: CombinedReward) -> None:
        self.args, self.reward = args, reward
        self._transform = (args.loss_type, args.pass_k, args.power)
        on_policy = args.num_iterations == 1 and args.old_model_sync_steps == 1
        same_dropout = args.disable_dropout or args.shared_dropout
        self.needs_rollout = not (on_policy and same_dropout)
        has_item_rewards = reward.item_rewards is not None
        self._only_logged_rewards = not (args.beta or args.entropy_coef or has_item_rewards)

    def roll_out(self, old: Distribution, batch: RLBatch, generator: torch.Generator) -> Rollout:
        """Return the old log-probabilities of the rewarded items."""
        del generator  # nothing is drawn
        return Rollout(_log_p_of_rewarded(old, batch))

    def loss(
        self,
        new: Distribution,
        batch: RLBatch,
        rollout: Rollout | None,
        reference: Distribution | None,
    ) -> tuple[Tensor, Statistics]:
        """Return minus the expected surrogate, regularised."""
        statistics, weights = Statistics(), []
        has_negative = distributed.data_sum(batch.has_negative_rewards) > 0
        # A loss of logged rewards only is divided by the sum of its weights afterwards.
        is_divided_afterwards = rollout is None and self._only_logged_rewards
        divisor: float | Tensor | None = 1.0
        if not is_divided_afterwards:
            old_weights = self._old_weights(new, batch, rollout, has_negative=has_negative)
            divisor = None if old_weights is None else self._divisor([old_weights], batch)
        regulariser, item_rewards = Regulariser(self.args, batch, statistics), self._items_of(batch)
        # `divisor` makes the weighted logged rewards sum to 1. The rewards of items are divided by
        # the number of states times the weights of the logged rewards, to keep the proportion.
        log_scale = self.reward.log_weight if self.args.normalize_weights else 1
        n_states = regulariser.count * log_scale

        def block_loss(block: Block, reference_block: Block | None) -> Tensor:
            states, items, values, pairs = rewarded_pairs(batch.rewards, block)
            log_p = block.log_p(states, items)
            old_log_p = log_p.detach() if rollout is None else rollout.log_p[pairs]
            weight = self._weight(old_log_p, states, values, len(block))
            weights.append(weight)
            surrogate = exact_surrogate(log_p, old_log_p, weight, self.args.clip)
            pairs_of_block = log_p.detach(), states, values
            self._add_statistics(statistics, pairs_of_block, len(block), has_negative=has_negative)
            log_surrogate(statistics, surrogate, block)
            total = self._divisor([weight], batch) if divisor is None else divisor
            expected_reward = (values.abs() * surrogate.value).sum() / total
            if item_rewards is not None:
                mean = block.expectation(item_rewards)
                statistics.add("rewards/items/mean", mean)
                expected_reward = expected_reward + mean.sum() / n_states
            return regulariser.loss(block, reference_block) - expected_reward

        total = with_reference(new, block_loss, reference)
        self._add_reward_means(statistics, batch)
        if is_divided_afterwards:
            total = total / self._divisor(weights, batch)
        return total, statistics

    def _old_weights(
        self, new: Distribution, batch: RLBatch, rollout: Rollout | None, *, has_negative: bool
    ) -> Tensor | None:
        """Return float[N], the weights of all rewarded pairs; None where one block has them all.

        Without a rollout the old policy is the new one: its log-probabilities are computed here, in
        a pass of their own, unless the weights do not depend on them.
        """
        args, rewards = self.args, batch.rewards
        is_constant = args.loss_type == "log" and args.advantage_clip is None
        if rollout is None and is_constant and not has_negative:
            return torch.ones_like(rewards.values)
        if rollout is None and len(new) <= new.block_size and distributed.world_size() == 1:
            return None
        if rollout is None:
            with torch.no_grad():
                log_p = _log_p_of_rewarded(new, batch)
        else:
            log_p = rollout.log_p
        return self._weight(log_p, rewards.states, rewards.values, len(new))

    def _items_of(self, batch: RLBatch) -> Tensor | None:
        """Return the rewards of the items, or of the candidates of a batch; None without any."""
        values = self.reward.item_rewards
        if values is None:
            return None
        values = values.to(batch.queries.rows.device)
        return values if batch.candidates is None else values[batch.candidates.items]

    def _weight(self, old_log_p: Tensor, states: Tensor, values: Tensor, n_states: int) -> Tensor:
        """Return float[N], the weight of the gradient of each pair's log p, for a reward of +-1.

        Args:
            old_log_p: float[N] of the rewarded pairs.
            states: int64[N], below `n_states`.
            values: float[N] the rewards.
            n_states: number of states that these are all pairs of.
        """
        is_by_state = self.args.whitening == "state"
        if is_by_state:
            weight = whitened_weight(old_log_p, values, states, n_states)
        else:
            weight = signed_log_weight(old_log_p, values, *self._transform)
        if self.args.advantage_clip is None:
            return weight
        # The advantage of a hit is A+ = f'(p)(1-p) = w (1-p)/p; whitened rewards are in units of
        # the deviation, so that the reward itself is part of the advantage.
        p = old_log_p.exp()
        bound = self.args.advantage_clip * p / (1 - p).clamp(min=1e-8)
        if is_by_state:
            bound = bound / values.abs().clamp(min=1e-8)
        return weight.clamp(-bound, bound)

    def _divisor(self, weights: list[Tensor], batch: RLBatch) -> float | Tensor:
        """Return the sum of |weight x reward|, or the number of states, of all processes."""
        if not self.args.normalize_weights:
            return distributed.data_sum(len(batch.queries))
        sizes = torch.cat(weights).abs() * batch.rewards.values.abs()
        return one_if_zero(distributed.data_total(sizes.sum()))

    def _add_statistics(
        self,
        statistics: Statistics,
        pairs: tuple[Tensor, Tensor, Tensor],
        count: int,
        *,
        has_negative: bool,
    ) -> None:
        """Log the expected reward of each of `count` states, and p and f(p) of each pair.

        Args:
            statistics: where to.
            pairs: log-probabilities, states and rewards of the rewarded pairs.
            count: number of states.
            has_negative: whether a process has negative rewards; the p of these items falls where
                that of the others rises, so that it has a name of its own.
        """
        log_p, states, values = pairs
        p, zeros = log_p.exp(), log_p.new_zeros(count)
        mean = zeros.index_add(0, states, p * values)
        square = zeros.index_add(0, states, p * values.square())
        statistics.add("reward", mean)
        statistics.add("reward_std", (square - mean.square()).clamp(min=0).sqrt())
        statistics.add("frac_reward_zero_std", (square == 0).float())
        if has_negative:
            statistics.add("policy/p_negative_mean", p, values < 0)
        is_raised = values >= 0 if has_negative else None
        statistics.add("policy/p_mean", p, is_raised)
        statistics.add("objective", objective(log_p, *self._transform), is_raised)

    def _add_reward_means(self, statistics: Statistics, batch: RLBatch) -> None:
        """Log the mean reward of each of several functions over rewarded pairs."""
        parts = batch.rewards.parts
        if parts is not None and len(self.reward.names) > 1:
            # `names` lists the functions of the log first; only they have parts.
            for name, part in zip(self.reward.names, parts, strict=False):
                statistics.add(f"rewards/{name}/mean", part)


def _log_p_of_rewarded(policy: Distribution, batch: RLBatch) -> Tensor:
    """Return float[N], the log-probabilities of the rewarded pairs, without gradient."""
    parts = [
        block.log_p(*rewarded_pairs(batch.rewards, block)[:2]).detach() for block in policy.blocks()
    ]
    return torch.cat(parts)
