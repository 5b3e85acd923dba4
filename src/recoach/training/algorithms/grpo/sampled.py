"""The sampled estimator: groups of items drawn from the old policy, as in the paper."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from recoach import distributed
from recoach.models.distribution import Block, Distribution
from recoach.policy.objective import clipped_surrogate, group_advantages
from recoach.policy.reward_lookup import lookup_rewards
from recoach.policy.rewards import CombinedReward, call_reward
from recoach.training.algorithms.base import RLBatch, Statistics, rewarded_pairs
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.regulariser import Regulariser, with_reference
from recoach.training.algorithms.rollouts import (
    Rollout,
    RolloutConfig,
    group_rollout,
    log_surrogate,
)

_RESAMPLES = 3


class SampledEstimator(ABC):
    """The clipped surrogate over groups of G items drawn from the old policy.

    Subclasses say what the advantage of a draw is.
    """

    needs_rollout = True

    def __init__(self, args: RolloutConfig, reward: CombinedReward) -> None:
        self.args, self.reward = args, reward

    @abstractmethod
    def advantages(self, parts: list[Tensor], old: Distribution) -> Tensor:
        """Return float[B, G], the advantage of each draw.

        Args:
            parts: float[B, G] the unweighted rewards of each reward function.
            old: the policy that the items were drawn from.
        """

    def roll_out(self, old: Distribution, batch: RLBatch, generator: torch.Generator) -> Rollout:
        """Draw a group for each state, and compute rewards and advantages."""
        draws = [self._draw(block, batch, generator) for block in old.blocks()]
        log_p, items = (torch.cat(tensors) for tensors in zip(*draws, strict=True))
        parts = rewards_of_draws(self.reward, batch, items)
        rewards = self.reward.total(parts)
        return Rollout(log_p, items, rewards, self.advantages(parts, old))

    def loss(
        self,
        new: Distribution,
        batch: RLBatch,
        rollout: Rollout | None,
        reference: Distribution | None,
    ) -> tuple[Tensor, Statistics]:
        """Return minus the clipped surrogate, averaged over groups and states, regularised."""
        old_log_p, items, rewards, advantages = group_rollout(rollout)
        statistics = Statistics()
        regulariser = Regulariser(self.args, batch, statistics)
        n_states = regulariser.count

        def block_loss(block: Block, reference_block: Block | None) -> Tensor:
            block_items = items[block.which]
            log_p = block.log_p_of(block_items)
            log_ratio = log_p - old_log_p[block.which]
            surrogate = clipped_surrogate(log_ratio, advantages[block.which], self.args.clip)
            statistics.add("log_ratio/abs_mean", log_ratio.detach().abs())
            log_surrogate(statistics, surrogate, block)
            gain = surrogate.value.mean(dim=1).sum() / n_states
            return regulariser.loss(block, reference_block, block_items, log_p) - gain

        log_group_rewards(statistics, rewards)
        return with_reference(new, block_loss, reference), statistics

    def _draw(
        self, block: Block, batch: RLBatch, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return float[b, G] and int64[b, G], log-probabilities and items, sorted by item."""
        pairs = rewarded_pairs(batch.rewards, block)[:3]
        items = self._draw_group(block, generator)
        strategy, item_rewards = self.args.dead_groups, self.reward.item_rewards
        for _ in range({"resample": _RESAMPLES, "force_positive": 1}.get(strategy, 0)):
            rewards = lookup_rewards(items, pairs)
            if item_rewards is not None:
                rewards += item_rewards.to(items.device)[items]
            is_dead = rewards.amax(dim=1) == rewards.amin(dim=1)
            if not bool(is_dead.any()):
                break
            if strategy == "resample":
                items[is_dead] = self._draw_group(block, generator)[is_dead]
            else:
                items = _with_rewarded_item(items, is_dead, pairs, generator)
        return block.log_p_of(items).detach(), items

    def _draw_group(self, block: Block, generator: torch.Generator) -> Tensor:
        draw = block.draw if self.args.replacement else block.draw_distinct
        return draw(self.args.group_size, generator)


class SampledGRPOEstimator(SampledEstimator):
    """The sampled estimator of GRPO: advantages are relative to the group (Eq. 4)."""

    args: GRPOConfig

    def advantages(self, parts: list[Tensor], old: Distribution) -> Tensor:
        """Return float[B, G], see `reward_advantages`."""
        del old  # the group is the baseline
        return reward_advantages(self.args, self.reward, parts)


def reward_advantages(args: GRPOConfig, reward: CombinedReward, parts: list[Tensor]) -> Tensor:
    """Return the group-relative advantages of several rewards, summed or normalised first.

    Args:
        args: how to scale and clip them.
        reward: the weights, and whether to normalise first.
        parts: float[B, G] the unweighted rewards of each reward function.
    """
    if reward.normalised:
        advantages = reward.total([group_advantages(part) for part in parts])
        # GDPO scales the sum once more, by the batch.
        advantages = group_advantages(advantages, "batch", pooled=distributed.data_mean)
    else:
        scale = "none" if args.loss_type == "dr_grpo" else args.scale_rewards
        total = reward.total(parts)
        advantages = group_advantages(total, scale, pooled=distributed.data_mean)
    limit = args.advantage_clip
    return advantages if limit is None else advantages.clamp(-limit, limit)


def rewards_of_draws(reward: CombinedReward, batch: RLBatch, items: Tensor) -> list[Tensor]:
    """Return float[B, G] for each reward function, unweighted, in the order of `reward`.

    Args:
        reward: the functions.
        batch: the states and the rewards of the log.
        items: int64[B, G] drawn items, each row sorted.
    """
    log = batch.rewards
    parts = log.values[None] if log.parts is None else log.parts
    rewards = [lookup_rewards(items, (log.states, log.items, part)) for part in parts]
    rewards += [values.to(items.device)[items] for values, _ in reward.item_parts]
    if reward.draw_functions:
        columns = columns_of_draws(batch, items)
        rewards += [
            call_reward(function, columns).to(items.device) for function, _ in reward.draw_functions
        ]
    return rewards


def columns_of_draws(batch: RLBatch, items: Tensor) -> dict[str, Tensor]:
    """Return the keyword arguments of a reward function for drawn items.

    Args:
        batch: the states and their logged items.
        items: int64[B, G] drawn items, each row sorted.
    """
    if batch.logged is None:
        raise ValueError("reward functions of draws need the logged items of the batch")
    logged = batch.logged.to(items.device)

    def of_draws(values: Tensor) -> Tensor:
        return lookup_rewards(items, (logged.states, logged.items, values))

    ahead = logged.ahead.float()
    is_unlogged = of_draws(torch.ones_like(ahead)) == 0
    columns = {
        name: of_draws(values).masked_fill(is_unlogged, torch.nan)
        for name, values in logged.columns.items()
    }
    return {
        "prompts": batch.queries.state_users[:, None].expand_as(items),
        "completions": items,
        "ahead": of_draws(ahead).long(),
        **columns,
    }


def _with_rewarded_item(
    items: Tensor,
    is_dead: Tensor,
    pairs: tuple[Tensor, Tensor, Tensor],
    generator: torch.Generator,
) -> Tensor:
    """Replace one draw of each dead group by the state's item of the highest reward, if any."""
    states, rewarded, values = pairs
    order = torch.argsort(values, descending=True, stable=True)
    order = order[states[order].argsort(stable=True)]
    states, rewarded = states[order], rewarded[order]
    is_first = torch.ones_like(states, dtype=torch.bool)
    is_first[1:] = states[1:] != states[:-1]
    chosen = is_first & is_dead[states]
    place = torch.randint(
        items.shape[1], (int(chosen.sum()),), generator=generator, device=items.device
    )
    items[states[chosen], place] = rewarded[chosen]
    return items.sort(dim=1).values


def log_group_rewards(statistics: Statistics, rewards: Tensor) -> None:
    """Log mean and standard deviation of float[B, G] rewards, and the share of flat groups."""
    deviation = rewards.square().mean(dim=1).sub_(rewards.mean(dim=1).square())
    deviation = deviation.clamp_(min=0).sqrt_()
    statistics.add("reward", rewards)
    statistics.add("reward_std", deviation)
    statistics.add("frac_reward_zero_std", (deviation == 0).float())
