"""Small environments with known optima, for tests of algorithms that act."""

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class Detour(VectorEnv):
    """Item 0 pays 1 and ends; item 1 pays 0 and leads to a state in which item 2 pays 5 and ends.

    Every other item pays 0 and ends. A myopic policy gets 1, the best 5.
    """

    def __init__(self, num_envs=16, *, scalar=True):
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = spaces.Box(0, 1, (2,), dtype=np.float32)
        self.single_action_space = spaces.Discrete(3) if scalar else spaces.MultiDiscrete([3])
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.zeros(self.num_envs, dtype=np.int64)
        return np.eye(2, dtype=np.float32)[self.place], {}

    def step(self, actions):
        items = np.asarray(actions).reshape(self.num_envs)
        rewards = np.select(
            [(self.place == 0) & (items == 0), (self.place == 1) & (items == 2)], [1.0, 5.0], 0.0
        )
        ends = (self.place == 1) | (items != 1)
        self.place = np.where(ends, self.place, 1)
        observations = np.eye(2, dtype=np.float32)[self.place]
        return observations, rewards, ends, np.zeros(self.num_envs, dtype=bool), {}
