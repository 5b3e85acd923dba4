"""States of an environment as tensors, and as the queries that a model reads."""

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from torch import Tensor

from recoach.data.queries import Queries, Seen
from recoach.errors import ConfigError
from recoach.models.base import Recommender
from recoach.simulation.environment import ShopVectorEnv
from recoach.simulation.episodes import history_queries
from recoach.training.online.observation_model import OBSERVATION, ObservationModel

AnyVectorEnv = VectorEnv[Any, Any, Any]


class States(NamedTuple):
    """N states of environments, on the CPU."""

    observations: Tensor
    """[N, ...] what the environments return: int64 histories of a shop, or float32 vectors."""
    users: Tensor
    """int64[N], the number of each user; -1 where the environment has none."""
    masked: Tensor
    """bool[N, n_items], items that may not be shown; [N, 0] where all may be."""

    @property
    def n_states(self) -> int:
        """Number of states."""
        return len(self.users)

    def select(self, rows: Tensor) -> "States":
        """Return the states of int64[M] indices or a bool[N] mask."""
        return States(self.observations[rows], self.users[rows], self.masked[rows])


class ActionSpace(NamedTuple):
    """The actions of an environment: lists of items."""

    n_items: int
    length: int
    """Items shown in a turn."""
    is_scalar: bool
    """Whether the environment takes an item instead of a list of one."""


def action_space(env: AnyVectorEnv) -> ActionSpace:
    """Return the actions of an environment.

    Raises:
        ConfigError: an action is no item and no list of items.
    """
    space = env.single_action_space
    if isinstance(env, ShopVectorEnv):
        return ActionSpace(env.n_items, env.config.list_length, is_scalar=False)
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return ActionSpace(int(space.n), 1, is_scalar=True)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        sizes, starts = set(space.nvec.tolist()), set(space.start.tolist())
        if len(sizes) == 1 and starts == {0}:
            return ActionSpace(sizes.pop(), len(space.nvec), is_scalar=False)
    raise ConfigError(
        f"The actions of the environment are {space}. Wrap it so that they are items numbered from "
        "0 (Discrete) or lists of such items (MultiDiscrete)."
    )


def read_states(env: AnyVectorEnv, observations: np.ndarray) -> States:
    """Return the states of all environments after a reset or a turn."""
    n = env.num_envs
    if isinstance(env, ShopVectorEnv):
        users, masked = torch.from_numpy(env.users.copy()), torch.from_numpy(env.seen.copy())
        return States(torch.from_numpy(observations.copy()), users, masked)
    vectors = torch.from_numpy(np.asarray(observations, dtype=np.float32).reshape(n, -1).copy())
    return States(vectors, torch.full((n,), -1), torch.zeros(n, 0, dtype=torch.bool))


def queries_of_states(model: Recommender, states: States) -> Queries:
    """Return what the model reads of N states, on its device.

    Raises:
        ConfigError: the model reads a history, and the observations are vectors.
    """
    pairs = torch.nonzero(states.masked, as_tuple=True)
    seen = Seen(pairs[0], pairs[1]) if len(pairs[0]) else None
    if isinstance(model, ObservationModel):
        index, none = torch.arange(states.n_states), torch.zeros(states.n_states, dtype=torch.int64)
        history = torch.empty(states.n_states, 0, dtype=torch.int64)
        columns = {OBSERVATION: states.observations.float()}
        queries = Queries(states.users, history, none, index, none, seen, columns)
        return queries.to(model.device)
    if states.observations.is_floating_point():
        raise ConfigError(
            f"{type(model).__name__} reads a history of items, and the observations of this "
            "environment are vectors; use build_observation_model."
        )
    return history_queries(model, states.observations.numpy(), states.users.numpy(), seen)


def check_model(model: Recommender, env: AnyVectorEnv) -> None:
    """Check that a model scores the items of an environment and reads its observations.

    Raises:
        ConfigError: it has other items, or reads something else.
    """
    n_items = action_space(env).n_items
    if model.n_items != n_items:
        raise ConfigError(
            f"The model scores {model.n_items:,} items, and the environment has {n_items:,}. Build "
            "the model for the items of the environment."
        )
    space = env.single_observation_space
    if isinstance(model, ObservationModel):
        size = int(np.prod(space.shape or (0,)))
        if size != model.config.observation_size or isinstance(env, ShopVectorEnv):
            raise ConfigError(
                f"The model reads vectors of {model.config.observation_size} numbers, and an "
                f"observation of the environment is {space}. Build the model for it."
            )
    elif not isinstance(env, ShopVectorEnv):
        raise ConfigError(
            f"{type(model).__name__} reads a history of items, and an observation of the "
            f"environment is {space}; use build_observation_model."
        )
