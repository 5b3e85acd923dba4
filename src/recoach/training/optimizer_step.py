"""Learning-rate schedules and gradient clipping, as in transformers."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from recoach.models.base import Recommender
from recoach.models.sharded_embedding import global_square_sum, sharded_table

SchedulerType = Literal["constant", "linear", "cosine"]


def learning_rate_factor(
    scheduler_type: SchedulerType | Literal["step"],
    step: int,
    warmup_steps: int,
    total_steps: int,
    gamma: float = 1.0,
) -> float:
    """Return the factor of the learning rate at a step, a function of the step alone.

    It rises from 0 at step 0 to 1 at `warmup_steps`. Then it stays at 1 (`constant`), is multiplied
    by `gamma` after every `total_steps` steps, counted from step 0 (`step`), or falls to 0 at
    `total_steps`: along a line, or along half a cosine wave.

    Args:
        scheduler_type: which of them.
        step: the number of steps before this one.
        warmup_steps: 0 has no warm-up.
        total_steps: maximum number of steps of the training; of `step`, those between two changes.
        gamma: factor of a change.

    The formulas are those of `get_scheduler` in transformers and of `StepLR` in PyTorch.
    """
    if step < warmup_steps:
        return step / warmup_steps
    if scheduler_type == "constant":
        return 1.0
    if scheduler_type == "step":
        return float(gamma ** (step // total_steps))
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 1.0 - done if scheduler_type == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def clip_gradients(model: Recommender, optimizer: torch.optim.Optimizer, max_norm: float) -> Tensor:
    """Return float[], the norm of all gradients, and scale them to `max_norm` if it is larger.

    Args:
        model: its item table may be sharded over processes; the norm is that of all rows.
        optimizer: has the parameters.
        max_norm: 0 does not scale.
    """
    parameters = [p for p in optimizer_parameters(optimizer) if p.grad is not None]
    norm = _gradient_norm(model, parameters)
    if max_norm:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def optimizer_parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the parameters of all groups of an optimiser."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def _gradient_norm(model: Recommender, parameters: list[Tensor]) -> Tensor:
    gradients = [(p, _values(p.grad)) for p in parameters if p.grad is not None]
    if sharded_table(model):
        squares = [global_square_sum(model, p, grad.square().sum()) for p, grad in gradients]
        return torch.stack(squares).double().sum().sqrt()
    return torch.nn.utils.get_total_norm([gradient for _, gradient in gradients])


def _values(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Update an exponential moving average of a model's trained weights.

    Args:
        average: a copy of the model, changed in place. Frozen weights stay as they are; buffers
            that checkpoints hold, such as the statistics of batch norm, are copied.
        model: the model after a step.
        decay: weight of the old average.
    """
    averages, weights = dict(average.named_parameters()), dict(model.named_parameters())
    for name, weight in weights.items():
        if weight.requires_grad:
            averages[name].lerp_(weight, 1 - decay)
    buffers = dict(average.named_buffers())
    saved = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in saved:
            buffers[name].copy_(buffer)
