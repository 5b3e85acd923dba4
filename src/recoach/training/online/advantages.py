"""Returns and advantages of episodes."""

import torch
from torch import Tensor

from recoach.training.online.rollouts import Rollout


def generalised_advantages(
    rollout: Rollout, values: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Return float[T, n], the generalised advantage estimates (Schulman et al. 2016, Eq. 16).

    A turn that terminates its episode has no next value, one that truncates it has that of its last
    observation; neither continues the sum. With `gae_lambda` = 1 the estimate is the discounted
    return minus the value, with 0 the one-step temporal difference.

    Args:
        rollout: T turns of n environments.
        values: float[T + 1, n], V of every state.
        gamma: discount of a turn.
        gae_lambda: weight of each longer estimate.
    """
    has_next = (~rollout.terminated).to(values.dtype)
    errors = rollout.rewards + gamma * has_next * values[1:] - values[:-1]
    continues = (rollout.active & ~rollout.terminated & ~rollout.truncated).to(values.dtype)
    advantages, later = torch.zeros_like(errors), torch.zeros_like(errors[0])
    for turn in range(len(errors) - 1, -1, -1):
        later = errors[turn] + gamma * gae_lambda * continues[turn] * later
        advantages[turn] = later
    return advantages * rollout.active


def leave_one_out(returns: Tensor, active: Tensor) -> Tensor:
    """Return float[T, n], the mean of a turn's returns over the other active environments.

    An environment that is the only active one has the baseline 0.

    Args:
        returns: float[T, n], the return from each turn on.
        active: bool[T, n].
    """
    counted = returns * active
    others = active.sum(dim=1, keepdim=True) - 1
    return (counted.sum(dim=1, keepdim=True) - counted) / others.clamp(min=1) * active
