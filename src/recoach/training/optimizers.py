"""The optimisers of supervised training."""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

OptimizerName = Literal["adamw", "adam", "adagrad"]

_EPSILON = 1e-6


def build_optimizer(
    name: OptimizerName,
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float,
    momentum: float,
) -> torch.optim.Optimizer:
    """Return a new optimiser.

    Args:
        name: `adamw` decouples the weight decay (Loshchilov & Hutter 2019); `adam` and `adagrad`
            add it to the gradient. `adagrad` is that of GRU4Rec's official code, which divides a
            gradient by sqrt(sum of squared gradients + 1e-6).
        parameters: what it updates.
        learning_rate: step size.
        weight_decay: 0 has none.
        momentum: of `adagrad`; the others ignore it.
    """
    if name == "adagrad" and momentum:
        return MomentumAdagrad(
            parameters, lr=learning_rate, weight_decay=weight_decay, momentum=momentum
        )
    if name == "adagrad":
        return torch.optim.Adagrad(
            parameters,
            lr=learning_rate,
            weight_decay=weight_decay,
            # PyTorch adds eps to the root; the first value of the sum stands under it.
            initial_accumulator_value=_EPSILON,
            eps=0.0,
            fused=True,
        )
    optim = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return optim(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)


class MomentumAdagrad(torch.optim.Optimizer):
    """Adagrad with momentum, as in GRU4Rec's official code.

    sum += g², velocity = momentum · velocity - lr · g / sqrt(sum), weight += velocity.

    Departure: the official code leaves the velocity of item vectors without a gradient in a step
    as it is, and does not move them; here all weights move.

    Args:
        parameters: what it updates.
        lr: step size.
        weight_decay: factor of the weight that is added to its gradient.
        momentum: part of the velocity that remains in the next step.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for group in self.param_groups:
            for weight in group["params"]:
                self.state[weight] = {
                    "sum": torch.full_like(weight, _EPSILON),
                    "velocity": torch.zeros_like(weight),
                }

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the weights that have a gradient."""
        del closure
        for group in self.param_groups:
            for weight in group["params"]:
                gradient: Tensor | None = weight.grad
                if gradient is None:
                    continue
                if group["weight_decay"]:
                    gradient = gradient.add(weight, alpha=group["weight_decay"])
                total, velocity = self.state[weight]["sum"], self.state[weight]["velocity"]
                total.addcmul_(gradient, gradient)
                velocity.mul_(group["momentum"])
                velocity.addcdiv_(gradient, total.sqrt(), value=-group["lr"])
                weight.add_(velocity)
