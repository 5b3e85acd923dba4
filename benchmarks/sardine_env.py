"""SARDINE (Deffayet et al. 2024) as a vector environment with observed user states.

Needs `pip install sardine-rec==1.0.8` (MIT licence), which requires Gymnasium only.
"""

from typing import Any

import gymnasium
import numpy as np
import sardine  # noqa: F401 - registers the environments
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]


class SardineVectorEnv(VectorEnv[Any, Any, Any]):
    """n users of a SARDINE environment, whose observations are the states of the users.

    An observation is float32[n, 3 * topics]: the user's vector as it is now, recent clicks for each
    topic over the boredom threshold, and the time that each topic remains boring; it is that of
    SARDINE's wrapper `IdealState`. SARDINE ends every episode after a fixed number of turns and
    calls that a termination; here it is a truncation, because the user is still there.

    Args:
        name: of the environment, such as "SingleItem-BoredInf-v0".
        num_envs: number of users.
        changes: of its settings, such as boredom_threshold=4.
    """

    def __init__(self, name: str, num_envs: int, **changes: float) -> None:
        made = (gymnasium.make(f"sardine/{name}", **changes) for _ in range(num_envs))
        self.users: list[Any] = [env.unwrapped for env in made]  # without checks of each turn
        first = self.users[0]
        self.num_envs, self.n_topics = num_envs, first.num_topics
        self.item_vectors: Floats = first.item_embedd
        self.item_topics: Longs = first.item_comp
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = spaces.Box(0, 1, (3 * self.n_topics,), dtype=np.float32)
        self.single_action_space = first.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode with a new user in each environment, seeded seed, seed + 1 and so on."""
        del options
        states = [
            user.reset(seed=None if seed is None else seed + number)[1]["user_state"]
            for number, user in enumerate(self.users)
        ]
        return np.stack(states), {}

    def step(
        self, actions: Longs
    ) -> tuple[NDArray[np.float32], Floats, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Show a list to every user."""
        results = [user.step(list_) for user, list_ in zip(self.users, actions, strict=True)]
        rewards = np.array([float(result[1]) for result in results])
        done = np.array([result[2] for result in results])
        observations = np.stack([result[4]["user_state"] for result in results])
        return observations, rewards, np.zeros_like(done), done, {}

    def relevances(self, row: int) -> Floats:
        """Return float[n_items], the true click probabilities of the items for a user, alone."""
        user = self.users[row]
        scores = user.item_embedd @ user.cur_user_embedd / user.max_score
        relevances: Floats = 1 / (1 + np.exp(-(scores - user.offset) * user.slope))
        return relevances

    def recent_clicks(self, row: int) -> Longs:
        """Return int64[topics], the clicks that are in the moving window after the next turn."""
        user = self.users[row]
        first = user.t + 1 - user.boredom_moving_window
        pairs = zip(user.clicked_item_topics, user.clicked_step, strict=True)
        topics = [int(topic) for topic, step in pairs if step >= first]
        return np.bincount(np.array(topics, dtype=np.int64), minlength=self.n_topics)


def capped_list(relevances: Floats, topics: Longs, clicks: Longs, length: int, cap: int) -> Longs:
    """Return the most relevant items of which no topic gets more than `cap` clicks.

    The items of the list count as clicked. A list that cannot be filled ends with the least
    relevant items.

    Args:
        relevances: float[n_items].
        topics: int64[n_items].
        clicks: int64[n_topics], clicks of the moving window.
        length: items of a list.
        cap: 0 has no cap: the myopic oracle.
    """
    order = np.argsort(-relevances, kind="stable")
    if not cap:
        return order[:length]
    room, chosen = cap - clicks, list[int]()
    for item in order.tolist():
        if len(chosen) == length:
            break
        if room[topics[item]] > 0:
            room[topics[item]] -= 1
            chosen.append(item)
    fill = [item for item in order[::-1].tolist() if item not in chosen]
    return np.array(chosen + fill[: length - len(chosen)])
