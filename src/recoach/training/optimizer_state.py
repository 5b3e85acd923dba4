"""The optimiser's state as named tensors of a checkpoint, gathered over processes."""

import torch
from torch import Tensor

from recoach.models.base import Recommender
from recoach.models.checkpoint import OPTIMIZER
from recoach.models.sharded_embedding import gather_rows, sharded_table
from recoach.models.sharded_softmax import local_rows


def optimiser_tensors(optimiser: torch.optim.Optimizer, model: Recommender) -> dict[str, Tensor]:
    """Return an optimiser's state by names, with all rows of a sharded table."""
    table, parameters = sharded_table(model), _parameters(optimiser)
    return {
        f"{OPTIMIZER}{index}.{name}": (
            gather_rows(value)
            if table and value.dim() and parameters[index] is table.weight
            else value
        )
        for index, entries in optimiser.state_dict()["state"].items()
        for name, value in entries.items()
        if value is not None  # SGD without momentum
    }


def fill_optimiser(
    optimiser: torch.optim.Optimizer, model: Recommender, tensors: dict[str, Tensor]
) -> None:
    """Load a saved state into an optimiser.

    Raises:
        ValueError: the state belongs to other parameters, or to an optimiser of another kind.
    """
    state: dict[int, dict[str, Tensor]] = {}
    table, parameters = sharded_table(model), _parameters(optimiser)
    for name, tensor in tensors.items():
        if name.startswith(OPTIMIZER):
            _, index, key = name.split(".", 2)
            is_sharded = table and tensor.dim() and parameters[int(index)] is table.weight
            local = tensor[local_rows(table.n_items)].clone() if table and is_sharded else tensor
            state.setdefault(int(index), {})[key] = local
    names = _state_names(optimiser)
    for number, entries in state.items():
        if entries.keys() != names:
            raise ValueError(f"it has the state of another optimiser: {', '.join(entries)}")
        for name, value in entries.items():
            if value.dim() and value.shape != parameters[number].shape:
                raise ValueError(f"{OPTIMIZER}{number}.{name} has the shape {tuple(value.shape)}")
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def _state_names(optimiser: torch.optim.Optimizer) -> set[str]:
    """Return the names of the tensors that an optimiser keeps for a parameter."""
    if isinstance(optimiser, torch.optim.Adam):  # created in the first step
        return {"step", "exp_avg", "exp_avg_sq"}
    return {name for entries in optimiser.state.values() for name in entries}


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimiser.param_groups for p in group["params"]]
