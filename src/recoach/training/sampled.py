"""The sampled estimator: the paper's groups of items drawn from the old policy."""

import torch
from torch import Tensor, nn

from recoach import distributed
from recoach.models.distribution import Block, Distribution
from recoach.policy.objective import clipped_surrogate, group_advantages
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
    rewarded_pairs,
    with_reference,
)

_RESAMPLES = 3


class SampledEstimator:
    """The paper's: groups of G items drawn from the old policy."""

    needs_reference = False
    head: nn.Module | None = None

    def __init__(self, args: GRPOConfig, rewarder: CombinedReward) -> None:
        self.args, self.rewarder = args, rewarder
        self.clip, self.needs_rollout = clip_of(args), True

    def roll_out(self, old: Distribution, task: RLBatch, generator: torch.Generator) -> Rollout:
        """Draw a group for each state, note what its items earned, and compare them."""
        drawn = [self._draw(block, task, generator) for block in old.blocks()]
        log_p, items = (torch.cat(tensors) for tensors in zip(*drawn, strict=True))
        parts = rewards_of_draws(self.rewarder, task, items)
        rewards = self.rewarder.total(parts)
        return Rollout(log_p, items, rewards, self.advantages(parts, old))

    def advantages(self, parts: list[Tensor], old: Distribution) -> Tensor:
        """Return float[B, G], what each draw earned relative to its group.

        Args:
            parts: float[B, G] what each reward function pays, unweighted.
            old: the policy that drew.
        """
        del old  # groups know all that is needed
        return reward_advantages(self.args, self.rewarder, parts)

    def _draw(
        self, block: Block, task: RLBatch, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        pairs = rewarded_pairs(task.rewards, block)[:3]
        drawn = self._group(block, generator)
        how, of_items = self.args.dead_groups, self.rewarder.of_items
        for _ in range({"resample": _RESAMPLES, "force_positive": 1}.get(how, 0)):
            rewards = lookup_rewards(drawn, pairs)
            if of_items is not None:
                rewards += of_items.to(drawn.device)[drawn]
            dead = rewards.amax(dim=1) == rewards.amin(dim=1)
            if not bool(dead.any()):
                break
            if how == "resample":
                drawn[dead] = self._group(block, generator)[dead]
            else:
                drawn = _with_a_reward(drawn, dead, pairs, generator)
        return block.log_p_of(drawn).detach(), drawn

    def _group(self, block: Block, generator: torch.Generator) -> Tensor:
        draw = block.draw if self.args.replacement else block.draw_distinct
        return draw(self.args.group_size, generator)

    def loss(
        self,
        new: Distribution,
        task: RLBatch,
        rollout: Rollout | None,
        reference: Distribution | None,
    ) -> tuple[Tensor, Statistics]:
        """Return minus the clipped surrogate over groups and states, plus the penalty."""
        old, drawn, rewards, advantages = groups_of(rollout)
        statistics = Statistics()
        penalty = Regulariser(self.args, task, statistics)
        count = distributed.data_sum(len(task.queries))

        def block_loss(block: Block, reference_block: Block | None) -> Tensor:
            log_p = block.log_p_of(drawn[block.which])
            log_ratio = log_p - old[block.which]
            surrogate = clipped_surrogate(log_ratio, advantages[block.which], self.clip)
            statistics.add("log_ratio/abs_mean", log_ratio.detach().abs())
            log_block(statistics, surrogate, block)
            gain = surrogate.value.mean(dim=1).sum() / count
            return penalty.of(block, reference_block, drawn[block.which], log_p) - gain

        log_rewards(statistics, rewards)
        loss = with_reference(new, block_loss, reference)
        return loss, statistics


def reward_advantages(args: GRPOConfig, rewarder: CombinedReward, parts: list[Tensor]) -> Tensor:
    """Return the group-relative advantages of several rewards, summed or normalised first.

    Args:
        args: how to scale and clip them.
        rewarder: weights, and which comes first.
        parts: float[B, G] what each reward function pays, unweighted.
    """
    if rewarder.normalised:
        found = rewarder.total([group_advantages(part) for part in parts])
        found = group_advantages(found, "batch", pooled=distributed.data_mean)  # GDPO: one size
    else:
        scale = "none" if args.loss_type == "dr_grpo" else args.scale_rewards
        found = group_advantages(rewarder.total(parts), scale, pooled=distributed.data_mean)
    limit = args.advantage_clip
    return found if limit is None else found.clamp(-limit, limit)


def rewards_of_draws(rewarder: CombinedReward, task: RLBatch, drawn: Tensor) -> list[Tensor]:
    """Return float[B, G] for each reward function, unweighted, in the rewarder's order.

    Args:
        rewarder: the functions.
        task: the states and what the log pays for them.
        drawn: int64[B, G], each row sorted.
    """
    log = task.rewards
    parts = log.values[None] if log.parts is None else log.parts
    found = [lookup_rewards(drawn, (log.states, log.items, part)) for part in parts]
    found += [values.to(drawn.device)[drawn] for values, _ in rewarder.item_parts]
    if rewarder.on_draws:
        given = columns_of_draws(task, drawn)
        found += [
            call_reward(function, given).to(drawn.device) for function, _ in rewarder.on_draws
        ]
    return found


def columns_of_draws(task: RLBatch, drawn: Tensor) -> dict[str, Tensor]:
    """Return what a reward function is given for draws int64[B, G], each row sorted."""
    if task.logged is None:
        raise ValueError("a task whose draws are asked about knows what the log holds")
    states, items, ahead, rating = (tensor.to(drawn.device) for tensor in task.logged)
    nowhere = lookup_rewards(drawn, (states, items, torch.ones_like(rating))) == 0
    rated = lookup_rewards(drawn, (states, items, rating)).masked_fill(nowhere, torch.nan)
    return {
        "prompts": task.queries.state_users[:, None].expand_as(drawn),
        "completions": drawn,
        "ahead": lookup_rewards(drawn, (states, items, ahead.float())).long(),
        "rating": rated,
    }


def lookup_rewards(drawn: Tensor, earned: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return float[B, G], what each draw has earned, 0 where nothing is said.

    Args:
        drawn: int64[B, G], each row sorted: the draws of a rewarded item stand together.
        earned: state, item and value of what earns something.
    """
    states, items, values = earned
    rows = torch.arange(len(drawn), device=drawn.device)
    width = 1 + int(torch.cat([drawn[:, -1], items]).max())
    keys = (drawn + rows[:, None] * width).view(-1)
    wanted = states * width + items
    first = torch.searchsorted(keys, wanted)
    count = torch.searchsorted(keys, wanted, right=True) - first
    pair = torch.repeat_interleave(torch.arange(len(items), device=drawn.device), count)
    within = torch.arange(len(pair), device=drawn.device) - (count.cumsum(0) - count)[pair]
    rewards = values.new_zeros(drawn.numel())
    rewards[first[pair] + within] = values[pair]
    return rewards.view(drawn.shape)


def _with_a_reward(
    drawn: Tensor, dead: Tensor, earned: tuple[Tensor, Tensor, Tensor], generator: torch.Generator
) -> Tensor:
    """Put what pays a state most in the place of one of its draws, where anything does."""
    states, items, values = earned
    order = torch.argsort(values, descending=True, stable=True)
    order = order[states[order].argsort(stable=True)]
    states, items = states[order], items[order]
    first = torch.ones_like(states, dtype=torch.bool)
    first[1:] = states[1:] != states[:-1]
    chosen = first & dead[states]
    place = torch.randint(
        drawn.shape[1], (int(chosen.sum()),), generator=generator, device=drawn.device
    )
    drawn[states[chosen], place] = items[chosen]
    return drawn.sort(dim=1).values


def log_rewards(statistics: Statistics, rewards: Tensor) -> None:
    """Log mean and spread of float[B, G] rewards, and the share of groups without any."""
    spread = rewards.square().mean(dim=1).sub_(rewards.mean(dim=1).square())
    spread = spread.clamp_(min=0).sqrt_()
    statistics.add("reward", rewards)
    statistics.add("reward_std", spread)
    statistics.add("frac_reward_zero_std", (spread == 0).float())
