"""A Gymnasium environment of recommendation sessions with the users of `recoach.simulation.shop`.

In each turn a user is shown a list and clicks one item or none. What a log does not contain and
long-term metrics need is assumed here: clicks reduce the interest in their category for a while
(satiation), turns without a click end sessions, and users return more often after sessions with
many clicks. A policy is evaluated by the clicks and sessions of many turns instead of the next
click.
"""

from typing import Annotated, Any, Final

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from recoach.data.dataset import Dataset, RaggedArray
from recoach.data.queries import histories
from recoach.errors import ConfigError
from recoach.simulation.shop import Shop, UserStates

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]

Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(gt=0)]

_MIN_LIFT: Final = 1e-12


@dataclass(frozen=True, slots=True, config=ConfigDict(allow_inf_nan=False))
class EnvironmentConfig:
    """Length of lists and episodes, and how users respond to lists.

    Raises:
        ValidationError: a probability outside 0..1, or a length that is not positive.
    """

    list_length: Count = 10
    """Items shown per turn."""
    no_click_logit: float = 4.0
    """Logit of clicking nothing; an item's logit is the log of its click probability relative to a
    random item's."""
    satiation: Annotated[float, Field(ge=0)] = 0.7
    """Subtracted from an item's logit for each recent click in its category."""
    satiation_decay: Probability = 0.9
    """Factor by which recent clicks count less after each turn."""
    leave_after_click: Probability = 0.03
    """Probability that a session ends after a turn with a click."""
    leave_after_no_click: Probability = 0.25
    """Probability that a session ends after a turn without a click."""
    max_return_probability: Probability = 0.95
    """Probability of another session after one with a click in every turn."""
    min_return_probability: Probability = 0.4
    """Probability of another session after one without any click; between the two it is linear in
    the share of turns with a click."""
    max_turns: Count = 100
    """Turns after which an episode is truncated."""
    history_length: Count = 50
    """Number of last items of a user that an observation contains."""


@dataclass(frozen=True, slots=True, config=ConfigDict(allow_inf_nan=False))
class EngagementReward:
    """What a turn pays: clicks, depth and returns, as in FeedRec (Zou et al. 2019).

    FeedRec pays for a short time until the user returns. Users of the shop return or do not; the
    time in between is not simulated, so that the return itself is paid.
    """

    click: float = 1.0
    """For a click."""
    turn: float = 0.0
    """For a list that is shown: the depth of a session."""
    visit: float = 0.0
    """For a user who leaves and returns for another session."""


RECORD_KEYS: Final = {
    "no_click_logit": "outside",
    "satiation": "boredom",
    "satiation_decay": "recovery",
    "leave_after_no_click": "leave_after_none",
    "max_return_probability": "return_at_best",
    "min_return_probability": "return_at_worst",
    "max_turns": "turns",
    "history_length": "memory",
}
"""Fields of `EnvironmentConfig` that had another name in earlier versions and have it in the
records of simulations still."""


class ShopVectorEnv(VectorEnv[Any, Any, Any]):
    """All users of a shop at once, as a Gymnasium vector environment.

    An observation is int64[n, history_length], the last items of each user, oldest first, padded on
    the right with n_items. An action is int64[n, list_length], the items shown, -1 for an empty
    position. The reward is 1 for a click, or what `reward` says. A user who does not return is
    terminated and gets no further reward; there is no autoreset, and all users are reset together.
    `infos` holds "user" (int64[n]), "clicked" (the item, or -1), "left" (the session ended) and
    "returned" (another one begins).

    Args:
        shop: the users and their click probabilities.
        dataset: the log of the same shop, split; items and users are numbered as in it, and
            histories start with all of it.
        config: how users respond.
        users: int64[n] the users who take part; None for all.
        reward: what a turn pays.

    Raises:
        ConfigError: lists are longer than the catalogue.
    """

    def __init__(
        self,
        shop: Shop,
        dataset: Dataset,
        config: EnvironmentConfig | None = None,
        users: Longs | None = None,
        reward: EngagementReward | None = None,
    ) -> None:
        self.reward = reward or EngagementReward()
        self.shop, self.config = shop, config or EnvironmentConfig()
        if self.config.list_length > dataset.n_items:
            raise ConfigError(
                f"list_length is {self.config.list_length}, but the log has only "
                f"{dataset.n_items} items; make it shorter."
            )
        self.users = np.arange(dataset.n_users) if users is None else np.asarray(users)
        self.n_items = dataset.n_items
        self._histories = histories(dataset, "all")
        names = sorted(set(shop.item_categories))
        self.item_category = np.array([names.index(name) for name in shop.item_categories])
        """int64[n_items], the number of each item's category."""
        self.num_envs = len(self.users)
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = spaces.Box(
            0, self.n_items, (self.config.history_length,), dtype=np.int64
        )
        choices = np.full(self.config.list_length, self.n_items + 1)
        self.single_action_space = spaces.MultiDiscrete(choices, start=np.full_like(choices, -1))
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Longs, dict[str, Any]]:
        """Return all users to their states at the end of the log, before a new session.

        Raises:
            ConfigError: `options` are given, such as a part of the users (`reset_mask`).
        """
        if options:
            raise ConfigError(
                f"All users are reset together; the options {sorted(options)} are not supported."
            )
        super().reset(seed=seed)
        self._states: UserStates = self.shop.user_states().select(self.users)
        self._states.last_item[:] = -1  # a new session
        self._recent_clicks = np.zeros((self.num_envs, int(self.item_category.max()) + 1))
        self.sessions = np.zeros((self.num_envs, 2))
        """float64[n, 2], the clicks and the turns of each user's session so far."""
        self.terminated = np.zeros(self.num_envs, dtype=np.bool_)
        """bool[n], who has left and does not return."""
        self._turn = 0
        self.observations = _last_items(
            self._histories, self.users, self.config.history_length, self.n_items
        )
        """int64[n, history_length], the last items of each user as they are now."""
        return self.observations.copy(), {"user": self.users.copy()}

    @property
    def seen(self) -> NDArray[np.bool_]:
        """bool[n, n_items], the items that each user has clicked so far."""
        seen: NDArray[np.bool_] = self._states.seen[:, self.shop.catalogue_index]
        return seen

    @property
    def active_rows(self) -> Longs:
        """int64[m], the rows of the users who are not terminated."""
        return np.flatnonzero(~self.terminated)

    def item_logits(self, rows: Longs) -> Floats:
        """Return float64[m, n_items], the true logits of clicks for int64[m] `rows` of users.

        A logit is the log of the lift over a random item, less satiation.
        """
        probabilities = self.shop.click_probabilities(self._states.select(rows))
        lift = probabilities * self.n_items
        logits: Floats = np.log(np.maximum(lift, _MIN_LIFT))
        return logits - self.config.satiation * self._recent_clicks[rows][:, self.item_category]

    def click_logits(self, rows: Longs) -> tuple[Floats, Floats]:
        """Return float64[m, n_items] and float64[m], the logits of items and of no click."""
        return self.item_logits(rows), np.full(len(rows), self.config.no_click_logit)

    def leave_probabilities(self, rows: Longs, has_click: NDArray[np.bool_]) -> Floats:
        """Return float64[m], the probabilities that sessions end after this turn.

        Args:
            rows: int64[m], of users; `sessions` includes this turn.
            has_click: bool[m], whether they have clicked in it.
        """
        config = self.config
        return np.where(has_click, config.leave_after_click, config.leave_after_no_click)

    def return_probabilities(self, rows: Longs) -> Floats:
        """Return float64[m], the probabilities that users whose sessions have ended return."""
        click_rate = self.sessions[rows, 0] / self.sessions[rows, 1]
        low, high = self.config.min_return_probability, self.config.max_return_probability
        probabilities: Floats = low + click_rate * (high - low)
        return probabilities

    def step(
        self, actions: Longs
    ) -> tuple[Longs, Floats, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Show a list to every user who is not terminated and sample clicks and departures.

        Raises:
            ConfigError: a list has the wrong length or contains an item outside the catalogue.
        """
        active, lists = self.active_rows, np.asarray(actions)
        shape = (self.num_envs, self.config.list_length)
        low, high = lists.min(initial=0), lists.max(initial=0)
        if lists.shape != shape or low < -1 or high >= self.n_items:
            raise ConfigError(
                f"An action must be int64{list(shape)}, items from 0 to {self.n_items - 1} and -1 "
                f"for an empty position; this one has shape {list(lists.shape)} and items from "
                f"{low} to {high}."
            )
        # Sampled for all users, so that one user's departure does not change the others' numbers.
        uniform = self.np_random.random((3, self.num_envs))
        clicked = np.full(self.num_envs, -1)
        clicked[active] = self._sample_clicks(active, lists[active], uniform[0])
        has_click = clicked >= 0
        self._update_states(np.flatnonzero(has_click), clicked[has_click])
        left, returned = self._end_sessions(active, has_click[active], uniform[1:])
        self._turn += 1
        truncated = np.full(self.num_envs, self._turn >= self.config.max_turns) & ~self.terminated
        info = {"user": self.users.copy(), "clicked": clicked, "left": left, "returned": returned}
        rewards = self.reward.click * has_click + self.reward.visit * returned
        rewards[active] += self.reward.turn
        return self.observations.copy(), rewards, self.terminated.copy(), truncated, info

    def _sample_clicks(self, rows: Longs, lists: Longs, uniform: Floats) -> Longs:
        """Sample the clicked items, -1 for none; an item listed twice counts once."""
        item_logits, no_click_logits = self.click_logits(rows)
        logits = np.take_along_axis(item_logits, lists, axis=1)
        logits[_duplicates(lists) | (lists < 0)] = -np.inf
        weights = np.exp(np.column_stack([logits, no_click_logits]))
        cumulative = weights.cumsum(axis=1)
        threshold = uniform[rows, None] * cumulative[:, -1:]
        position = (cumulative <= threshold).sum(axis=1)
        choices = np.column_stack([lists, np.full(len(rows), -1)])
        clicked: Longs = choices[np.arange(len(rows)), position]
        return clicked

    def _update_states(self, rows: Longs, items: Longs) -> None:
        """Apply clicks to satiation, user states and observations."""
        self._recent_clicks *= self.config.satiation_decay
        indices = self.shop.catalogue_index[items]
        self._states.seen[rows, indices] = True
        self._states.last_item[rows] = indices
        self._recent_clicks[rows, self.item_category[items]] += 1
        observation, pad = self.observations, self.n_items
        full = observation[rows, -1] != pad
        observation[rows[full]] = np.roll(observation[rows[full]], -1, axis=1)
        lengths = (observation[rows] != pad).sum(1)
        observation[rows, np.where(full, self.config.history_length - 1, lengths)] = items

    def _end_sessions(
        self, active: Longs, has_click: NDArray[np.bool_], uniform: Floats
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Sample who ends the session and who of them returns; bool[n] each."""
        self.sessions[active] += np.column_stack([has_click, np.ones(len(active))])
        leaving = active[uniform[0, active] < self.leave_probabilities(active, has_click)]
        returns = uniform[1, leaving] < self.return_probabilities(leaving)
        self.terminated[leaving[~returns]] = True
        returning = leaving[returns]
        noise = self.np_random.normal(size=self._states.vectors.shape)
        self._states.update_vectors(returning, self.shop.habits.drift, noise[returning])
        self._states.last_item[returning] = -1
        self.sessions[returning] = 0
        left, returned = np.zeros((2, self.num_envs), dtype=np.bool_)
        left[leaving], returned[returning] = True, True
        return left, returned


class ShopEnv(gymnasium.Env[Longs, Longs]):
    """One user of a shop as a Gymnasium environment; every reset samples another user.

    The arguments are those of `ShopVectorEnv`.
    """

    def __init__(
        self, shop: Shop, dataset: Dataset, config: EnvironmentConfig | None = None
    ) -> None:
        self._arguments = (shop, dataset, config)
        self._env = ShopVectorEnv(*self._arguments, users=np.array([0]))
        self.observation_space = self._env.single_observation_space
        self.action_space = self._env.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Longs, dict[str, Any]]:
        """Start an episode with a user sampled by the seed."""
        super().reset(seed=seed)
        user = self.np_random.integers(self._arguments[1].n_users, size=1)
        self._env = ShopVectorEnv(*self._arguments, users=user)
        env_seed = int(self.np_random.integers(2**31))
        observations, info = self._env.reset(seed=env_seed, options=options)
        return observations[0], _first(info)

    def step(self, action: Longs) -> tuple[Longs, float, bool, bool, dict[str, Any]]:
        """Show a list to the user."""
        observations, rewards, terminated, truncated, info = self._env.step(
            np.asarray(action)[None]
        )
        ends = bool(terminated[0]), bool(truncated[0])
        return observations[0], float(rewards[0]), *ends, _first(info)


def _last_items(past: RaggedArray, users: Longs, length: int, pad: int) -> Longs:
    observations = np.full((len(users), length), pad, dtype=np.int64)
    for row, user in enumerate(users.tolist()):
        items = past.row(user)[-length:]
        observations[row, : len(items)] = items
    return observations


def _duplicates(lists: Longs) -> NDArray[np.bool_]:
    """Return where a list has an item for the second time or later."""
    order = np.argsort(lists, axis=1, kind="stable")
    ordered = np.take_along_axis(lists, order, axis=1)
    duplicates = np.zeros(lists.shape, dtype=np.bool_)
    np.put_along_axis(duplicates, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return duplicates


def _first(info: dict[str, Any]) -> dict[str, Any]:
    return {name: values[0] for name, values in info.items()}
