"""The slate estimator: groups of Plackett-Luce lists with a return for each rank."""

import torch
from torch import Tensor

from recoach.models.distribution import Block, Distribution
from recoach.policy.list_rewards import has_marginal_gains
from recoach.policy.objective import clipped_surrogate
from recoach.policy.reward_lookup import lookup_rewards
from recoach.policy.rewards import CombinedReward, call_reward
from recoach.training.algorithms.base import RLBatch, Statistics
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.grpo.sampled import (
    columns_of_draws,
    log_group_rewards,
    reward_advantages,
)
from recoach.training.algorithms.regulariser import Regulariser, with_reference
from recoach.training.algorithms.rollouts import Rollout, group_rollout, log_surrogate

_MOST_MASS = 1 - 1e-6
"""Bound of the probability of the earlier places: the last item's log-probability stays finite."""


class SlateEstimator:
    """Lists of L items drawn without replacement; the action of a rank is its item.

    The reward of an item counts at its rank with the discount of DCG, and a rank's return is the
    sum from that rank on (Rank-GRPO, Zhu et al. 2025). So is that of what each rank adds to the
    reward of a list, without the discount (`recoach.policy.list_rewards.marginal_gains`); a single
    reward of a list is added to the return of every rank. Returns are compared between the lists of
    a state, rank by rank.
    """

    needs_rollout = True

    def __init__(self, args: GRPOConfig, reward: CombinedReward) -> None:
        self.args, self.reward = args, reward

    def roll_out(self, old: Distribution, batch: RLBatch, generator: torch.Generator) -> Rollout:
        """Draw a group of lists for each state and compare the returns of their ranks."""
        n_lists, length = self.args.group_size, self.args.slate_length
        drawn, log_p = [], []
        for block in old.blocks():
            block_lists = block.draw_lists(n_lists, length, generator)
            drawn.append(block_lists)
            log_p.append(plackett_luce(block, block_lists).detach())
        lists = torch.cat(drawn)
        # float[B L, G]: the group of a rank is that rank of all lists.
        parts = [returns.transpose(1, 2).flatten(0, 1) for returns in self._returns(batch, lists)]
        advantages = reward_advantages(self.args, self.reward, parts)
        advantages = advantages.view(len(lists), length, n_lists).transpose(1, 2)
        return Rollout(torch.cat(log_p), lists, self.reward.total(parts), advantages)

    def _returns(self, batch: RLBatch, lists: Tensor) -> list[Tensor]:
        """Return float[B, G, L] for each reward function, the return from each rank on."""
        shape, log = lists.shape, batch.rewards
        items, order = lists.flatten(1).sort(dim=1)
        inverse = order.argsort(dim=1)

        def unsorted(values: Tensor) -> Tensor:
            return values.gather(1, inverse).view(shape)

        ranks = torch.arange(shape[2], device=lists.device)
        discount = 1 / (ranks + 2.0).log2()
        parts = log.values[None] if log.parts is None else log.parts
        gains = [unsorted(lookup_rewards(items, (log.states, log.items, part))) for part in parts]
        gains += [values.to(lists.device)[lists] for values, _ in self.reward.item_parts]
        returns = [_sum_from_rank(discount * gain) for gain in gains]
        if self.reward.draw_functions:
            columns = {k: unsorted(v) for k, v in columns_of_draws(batch, items).items()}
            columns = {name: column.flatten(0, 1) for name, column in columns.items()}
            columns["prompts"] = columns["prompts"][:, 0]
            for function, _ in self.reward.draw_functions:
                values = call_reward(function, columns, lists=True).to(lists.device)
                if values.ndim == 1:
                    returns.append(values.view(*shape[:2], 1).expand(shape))
                else:
                    weight = 1.0 if has_marginal_gains(function) else discount
                    returns.append(_sum_from_rank(weight * values.view(shape)))
        return returns

    def loss(
        self,
        new: Distribution,
        batch: RLBatch,
        rollout: Rollout | None,
        reference: Distribution | None,
    ) -> tuple[Tensor, Statistics]:
        """Return minus the clipped surrogate, averaged over ranks, lists and states."""
        old_log_p, lists, rewards, advantages = group_rollout(rollout)
        statistics = Statistics()
        regulariser = Regulariser(self.args, batch, statistics)
        n_states = regulariser.count

        def block_loss(block: Block, reference_block: Block | None) -> Tensor:
            log_ratio = plackett_luce(block, lists[block.which]) - old_log_p[block.which]
            surrogate = clipped_surrogate(log_ratio, advantages[block.which], self.args.clip)
            statistics.add("log_ratio/abs_mean", log_ratio.detach().abs())
            log_surrogate(statistics, surrogate, block)
            gain = surrogate.value.mean(dim=(1, 2)).sum() / n_states
            return regulariser.loss(block, reference_block) - gain

        log_group_rewards(statistics, rewards.view(len(lists), -1, rewards.shape[1])[:, 0])
        return with_reference(new, block_loss, reference), statistics


def plackett_luce(block: Block, lists: Tensor) -> Tensor:
    """Return float[b, G, L], the log-probability of each item given the earlier ones.

    Args:
        block: the policy of b states.
        lists: int64[b, G, L], no item twice in a list.
    """
    log_p = block.log_p_of(lists.flatten(1)).view(lists.shape)
    p = log_p.exp()
    earlier_mass = (p.cumsum(dim=2) - p).clamp(max=_MOST_MASS)
    return log_p - (-earlier_mass).log1p()


def _sum_from_rank(gains: Tensor) -> Tensor:
    return gains.flip(2).cumsum(dim=2).flip(2)
