"""The slate estimator: groups of Plackett-Luce lists with a return for each rank."""

import torch
from torch import Tensor, nn

from recoach import distributed
from recoach.models.distribution import Block, Distribution
from recoach.policy.objective import clipped_surrogate
from recoach.policy.rewards import CombinedReward, call_reward
from recoach.training.config import GRPOConfig
from recoach.training.estimators import (
    Regulariser,
    RLBatch,
    Rollout,
    Statistics,
    clip_of,
    groups_of,
    log_block,
    with_reference,
)
from recoach.training.sampled import (
    columns_of_draws,
    log_rewards,
    lookup_rewards,
    reward_advantages,
)

_ALMOST_ALL = 1 - 1e-6
"""What earlier places may have taken at the most: the last item's log-probability stays finite."""


class SlateEstimator:
    """Lists of L items drawn without replacement, the action of a rank being its item.

    What an item earns counts at its rank with the discount of DCG, and a rank's return is the tail
    of that sum (Rank-GRPO, Zhu et al. 2025); what a whole list earns is added to the return of
    every rank. Returns are compared between the lists of a state, rank by rank.
    """

    needs_reference = False
    head: nn.Module | None = None

    def __init__(self, args: GRPOConfig, rewarder: CombinedReward) -> None:
        self.args, self.rewarder = args, rewarder
        self.clip, self.needs_rollout = clip_of(args), True

    def roll_out(self, old: Distribution, task: RLBatch, generator: torch.Generator) -> Rollout:
        """Draw a group of lists for each state and compare what their ranks return."""
        shape = (self.args.group_size, self.args.slate_length)
        drawn, log_p = [], []
        for block in old.blocks():
            lists = block.draw_lists(*shape, generator)
            drawn.append(lists)
            log_p.append(plackett_luce(block, lists).detach())
        lists = torch.cat(drawn)
        parts = [tails.transpose(1, 2).flatten(0, 1) for tails in self._returns(task, lists)]
        advantages = reward_advantages(
            self.args, self.rewarder, parts
        )  # int[B L, G]: a group is a rank's
        advantages = advantages.view(len(lists), shape[1], shape[0]).transpose(1, 2)
        return Rollout(torch.cat(log_p), lists, self.rewarder.total(parts), advantages)

    def _returns(self, task: RLBatch, lists: Tensor) -> list[Tensor]:
        """Return float[B, G, L] for each reward function, the return from each rank on."""
        shape, log = lists.shape, task.rewards
        flat, order = lists.flatten(1).sort(dim=1)
        back = order.argsort(dim=1)

        def placed(of_sorted: Tensor) -> Tensor:
            return of_sorted.gather(1, back).view(shape)

        ranks = torch.arange(shape[2], device=lists.device)
        discount = 1 / (ranks + 2.0).log2()
        parts = log.values[None] if log.parts is None else log.parts
        gains = [placed(lookup_rewards(flat, (log.states, log.items, part))) for part in parts]
        gains += [values.to(lists.device)[lists] for values, _ in self.rewarder.item_parts]
        found = [_tail(discount * gain) for gain in gains]
        if self.rewarder.on_draws:
            given = {name: placed(column) for name, column in columns_of_draws(task, flat).items()}
            given = {name: column.flatten(0, 1) for name, column in given.items()}
            given["prompts"] = given["prompts"][:, 0]
            for function, _ in self.rewarder.on_draws:
                answer = call_reward(function, given, lists=True).to(lists.device)
                if answer.ndim == 1:
                    found.append(answer.view(*shape[:2], 1).expand(shape))
                else:
                    found.append(_tail(discount * answer.view(shape)))
        return found

    def loss(
        self,
        new: Distribution,
        task: RLBatch,
        rollout: Rollout | None,
        reference: Distribution | None,
    ) -> tuple[Tensor, Statistics]:
        """Return minus the clipped surrogate over ranks, lists and states, plus the penalty."""
        old, lists, rewards, advantages = groups_of(rollout)
        statistics = Statistics()
        penalty = Regulariser(self.args, task, statistics)
        count = distributed.data_sum(len(task.queries))

        def block_loss(block: Block, reference_block: Block | None) -> Tensor:
            log_ratio = plackett_luce(block, lists[block.which]) - old[block.which]
            surrogate = clipped_surrogate(log_ratio, advantages[block.which], self.clip)
            statistics.add("log_ratio/abs_mean", log_ratio.detach().abs())
            log_block(statistics, surrogate, block)
            return (
                penalty.of(block, reference_block) - surrogate.value.mean(dim=(1, 2)).sum() / count
            )

        log_rewards(statistics, rewards.view(len(lists), -1, rewards.shape[1])[:, 0])
        return with_reference(new, block_loss, reference), statistics


def plackett_luce(block: Block, lists: Tensor) -> Tensor:
    """Return float[b, G, L], the log-probability of each item given those before it.

    Args:
        block: the policy of b states.
        lists: int64[b, G, L], no item twice in a list.
    """
    log_p = block.log_p_of(lists.flatten(1)).view(lists.shape)
    p = log_p.exp()
    before = (p.cumsum(dim=2) - p).clamp(max=_ALMOST_ALL)
    return log_p - (-before).log1p()


def _tail(gains: Tensor) -> Tensor:
    return gains.flip(2).cumsum(dim=2).flip(2)
