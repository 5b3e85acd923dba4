"""Episodes of a policy in a vector environment, as tensors to learn from."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from recoach.errors import ConfigError
from recoach.training.online.states import AnyVectorEnv, States, action_space, read_states


class Choice(NamedTuple):
    """What a policy shows in m states."""

    items: Tensor
    """int64[m, length]."""
    log_probs: Tensor
    """float[m], the log-probability of the list; 0 for a policy that does not draw."""


Act = Callable[[States], Choice]
"""Chooses the lists of m states."""


class Rollout(NamedTuple):
    """T turns of n environments; after the end of its episode an environment is not active."""

    states: States
    """(T + 1) * n states: that of turn t in environment i is t * n + i, the next one
    (t + 1) * n + i."""
    actions: Tensor
    """int64[T, n, length]."""
    log_probs: Tensor
    """float[T, n] of the lists under the policy that drew them."""
    rewards: Tensor
    """float[T, n], 0 where not active."""
    active: Tensor
    """bool[T, n], whether the turn belongs to the episode."""
    terminated: Tensor
    """bool[T, n], whether the episode ends and no reward can follow."""
    truncated: Tensor
    """bool[T, n], whether the episode is cut: the next state has a value."""

    @property
    def rows(self) -> Tensor:
        """int64[N], the states of the active turns."""
        return torch.nonzero(self.active.flatten())[:, 0]


@torch.no_grad()
def collect_episodes(
    env: AnyVectorEnv, act: Act, seed: int, *, max_turns: int = 0, no_repeat: bool = False
) -> Rollout:
    """Play one episode in every environment, from a reset to its end.

    Episodes are not continued by the next rollout, so that a training resumes without the state of
    the environments. An environment that resets itself is not active after the end of its episode.

    Args:
        env: reset first.
        act: called with the states of active environments.
        seed: of the environments.
        max_turns: turns after which the remaining episodes are truncated; 0 for none.
        no_repeat: mask the items that were already shown in the episode, until fewer than a list
            of items are left.

    Raises:
        ConfigError: a user of a shop has seen so many items that no list is left.
    """
    space, n = action_space(env), env.num_envs
    observations, _ = env.reset(seed=seed)
    shown = torch.zeros(n, space.n_items, dtype=torch.bool)

    def states_of(observations: np.ndarray) -> States:
        states = read_states(env, observations)
        return _without(states, shown, space.length) if no_repeat else states

    states = [states_of(observations)]
    alive, turns = torch.ones(n, dtype=torch.bool), list[tuple[Tensor, ...]]()
    while bool(alive.any()):
        items, log_probs = torch.zeros(n, space.length, dtype=torch.int64), torch.zeros(n)
        choice = act(states[-1].select(alive))
        if bool((choice.items < 0).any()):
            raise ConfigError(
                f"A user has fewer than {space.length} items left. Make the lists or the episodes "
                "shorter."
            )
        items[alive], log_probs[alive] = choice.items.cpu(), choice.log_probs.cpu().float()
        shown[alive] = shown[alive].scatter(1, items[alive], value=True)
        lists = items.numpy()
        observations, rewards, ends, cuts, info = env.step(
            lists[:, 0] if space.is_scalar else lists
        )
        observations = _last_observations(env, observations, info, ends | cuts)
        states.append(states_of(observations))
        terminated = torch.from_numpy(np.asarray(ends)) & alive
        is_last = max_turns > 0 and len(turns) + 1 >= max_turns
        cut = torch.from_numpy(np.asarray(cuts)) | is_last
        truncated = cut & alive & ~terminated
        gained = torch.from_numpy(np.asarray(rewards, dtype=np.float32)) * alive
        turns.append((items, log_probs, gained, alive, terminated, truncated))
        alive = alive & ~terminated & ~truncated
    return Rollout(
        States(*(torch.cat(parts) for parts in zip(*states, strict=True))),
        *(torch.stack(parts) for parts in zip(*turns, strict=True)),
    )


def _without(states: States, shown: Tensor, length: int) -> States:
    """Mask the shown items, except where fewer than a list of items would be left."""
    masked = states.masked | shown if states.masked.numel() else shown.clone()
    exhausted = (~masked).sum(dim=1) < length
    masked[exhausted] = states.masked[exhausted] if states.masked.numel() else False
    return states._replace(masked=masked)


def _last_observations(
    env: AnyVectorEnv, observations: np.ndarray, info: dict[str, object], done: np.ndarray
) -> np.ndarray:
    """Return the observations with which episodes end, also where the environment has reset."""
    if env.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP or not done.any():
        return observations
    final, last = np.asarray(info["final_obs"], dtype=object), np.array(observations)
    for row in np.flatnonzero(done):
        last[row] = final[row]
    return last


class EpisodeMeans(NamedTuple):
    """What episodes yield and show."""

    returns: Tensor
    """float[n], the sum of the rewards of each episode."""
    turns: Tensor
    """float[n], the length of each episode."""
    coverage: float
    """Share of the catalogue that was shown in at least one episode."""
    repeats: float
    """Share of the shown items that were shown earlier in the same episode."""


def episode_means(rollout: Rollout, n_items: int) -> EpisodeMeans:
    """Return the means of a rollout's episodes."""
    n, active = rollout.active.shape[1], rollout.active
    shown = torch.zeros(n, n_items)
    environments = torch.arange(n).expand(active.shape)[active]
    items = rollout.actions[active]
    shown.index_put_((environments[:, None], items), torch.ones(()), accumulate=True)
    is_shown = shown > 0
    return EpisodeMeans(
        rollout.rewards.sum(dim=0),
        active.sum(dim=0).float(),
        float(is_shown.any(dim=0).float().mean()),
        1 - float(is_shown.sum() / shown.sum()),
    )
