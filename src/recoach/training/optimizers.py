"""The optimisers of supervised training."""

from collections.abc import Callable, Iterable, Mapping
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
    if name == "adagrad":
        return Adagrad(parameters, lr=learning_rate, weight_decay=weight_decay, momentum=momentum)
    optim = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return optim(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)


class Adagrad(torch.optim.Optimizer):
    """Adagrad with momentum, as in GRU4Rec's official code.

    sum += g², velocity = momentum · velocity - lr · g / sqrt(sum), weight += velocity; sum starts
    at 1e-6. Rows of a table without a sparse gradient stay as they are, and so do their sum and
    velocity.

    Args:
        parameters: what it updates.
        lr: step size.
        weight_decay: factor of the weight that is added to its gradient; of a table with a sparse
            gradient, in the rows that have one.
        momentum: part of the velocity that remains in the next step; 0 keeps no velocity.
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
                self.state[weight] = {"sum": torch.full_like(weight, _EPSILON)}
                if momentum:
                    self.state[weight]["velocity"] = torch.zeros_like(weight)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the weights that have a gradient."""
        del closure
        for group in self.param_groups:
            for weight in group["params"]:
                gradient: Tensor | None = weight.grad
                if gradient is None:
                    continue
                tensors = {"weight": weight, **self.state[weight]}
                if not gradient.is_sparse:
                    self._update(gradient, group, **tensors)
                    continue
                gradient = gradient.coalesce()  # the square of a sum is not the sum of the squares
                (rows,) = gradient.indices()
                parts = {name: tensor.index_select(0, rows) for name, tensor in tensors.items()}
                self._update(gradient.values(), group, **parts)
                for name, part in parts.items():
                    tensors[name].index_copy_(0, rows, part)

    @staticmethod
    def _update(
        gradient: Tensor,
        group: Mapping[str, float],
        weight: Tensor,
        sum: Tensor,  # noqa: A002 (names of the state in checkpoints)
        velocity: Tensor | None = None,
    ) -> None:
        if group["weight_decay"]:
            gradient = gradient.add(weight, alpha=group["weight_decay"])
        sum.addcmul_(gradient, gradient)
        if velocity is None:
            weight.addcdiv_(gradient, sum.sqrt(), value=-group["lr"])
        else:
            velocity.mul_(group["momentum"]).addcdiv_(gradient, sum.sqrt(), value=-group["lr"])
            weight.add_(velocity)
