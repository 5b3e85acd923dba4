"""What algorithms that learn Q by temporal differences share: loss, target network, bounds."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from recoach import distributed
from recoach.data.episodes import DiscountUnit

TDLoss = Literal["huber", "squared"]


class RewardRange(nn.Module):
    """The lowest and highest reward so far, 0 included; bounds the returns."""

    low: Tensor
    high: Tensor

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros((), device=device))
        self.register_buffer("high", torch.zeros((), device=device))

    def update(self, rewards: Tensor) -> None:
        """Extend the range by the rewards of all processes."""
        extremes = torch.stack([-self.low, self.high, -rewards.min(), rewards.max()])
        low, high = distributed.all_reduce_max(extremes).view(2, 2).amax(dim=0)
        self.low.copy_(-low)
        self.high.copy_(high)

    def bounds(self, gamma: float, unit: DiscountUnit) -> tuple[Tensor, Tensor]:
        """Return the lowest and highest possible return: [lowest, highest reward] / (1 - gamma).

        Args:
            gamma: the discount.
            unit: with `day` the bounds are infinite, because events of one day are not discounted
                against each other.
        """
        if unit == "day":
            return torch.full_like(self.low, -torch.inf), torch.full_like(self.high, torch.inf)
        return self.low / (1 - gamma), self.high / (1 - gamma)

    def clamp(self, returns: Tensor, gamma: float, unit: DiscountUnit) -> Tensor:
        """Return returns clamped to the bounds, see `bounds`."""
        return returns.clamp(*self.bounds(gamma, unit))


def td_errors(q: Tensor, targets: Tensor, loss: TDLoss) -> Tensor:
    """Return the loss of each temporal difference: Huber with threshold 1, or half the square."""
    if loss == "huber":
        return functional.huber_loss(q, targets, reduction="none")
    return (q - targets).square() / 2


@torch.no_grad()
def polyak_update(target: nn.Module, trained: nn.Module, tau: float) -> None:
    """Move the parameters of a target network towards the trained ones by the fraction `tau`."""
    for kept, moved in zip(target.parameters(), trained.parameters(), strict=True):
        kept.lerp_(moved, tau)


def mean_of_processes(values: Tensor) -> Tensor:
    """Return this process's sum over the number of values of all processes; 0 if there are none."""
    return values.sum() / max(1.0, distributed.data_sum(values.numel()))
