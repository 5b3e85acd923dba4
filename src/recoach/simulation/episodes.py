"""Episodes of a policy in `recoach.simulation.environment`, and the policy of a trained model."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries, Seen, user_queries
from recoach.evaluation.model_scores import model_scores
from recoach.evaluation.ranking import top_of_scores
from recoach.models.base import Recommender, eval_mode
from recoach.simulation.environment import Floats, Longs, ShopVectorEnv


class EpisodeResult(NamedTuple):
    """Clicks, turns and sessions of each user under a policy."""

    reward: Floats
    """[n] clicks."""
    turns: Floats
    """[n] lists shown."""
    sessions: Floats
    """[n] sessions."""
    return_rate: float
    """Share of the ended sessions that were followed by another one."""
    coverage: float
    """Share of the catalogue that was shown to at least one user."""


Policy = Callable[[Longs, ShopVectorEnv], Longs]
"""Maps observations and the environment (its `users` and `seen`) to int64[n, list_length]."""


@runtime_checkable
class LearningPolicy(Protocol):
    """A policy that is updated after every turn."""

    def learn(self, observations: Longs, lists: Longs, clicked: Longs) -> None:
        """Update from the lists shown to the m active users and int64[m] clicks, -1 for none."""


def run_episodes(env: ShopVectorEnv, policy: Policy, seed: int) -> EpisodeResult:
    """Run one episode for every user, until all are terminated or truncated.

    Args:
        env: reset first.
        policy: called in every turn; if it has a method `learn`, that is called after the turn
            with the observations, lists and clicked items (-1 for none) of the active users.
        seed: of the environment; with the same seed a user has the same random numbers under every
            policy.
    """
    observations, _ = env.reset(seed=seed)
    reward, turns = np.zeros((2, env.num_envs))
    sessions = np.ones(env.num_envs)
    covered = np.zeros(env.n_items, dtype=np.bool_)
    n_left = n_returned = 0
    done = False
    while not done:
        active = ~env.terminated
        lists = policy(observations, env)
        covered[lists[active][lists[active] >= 0]] = True
        turns += active
        before = observations
        observations, rewards, terminated, truncated, info = env.step(lists)
        if isinstance(policy, LearningPolicy):
            policy.learn(before[active], lists[active], info["clicked"][active])
        reward += rewards
        sessions += info["returned"]
        n_left, n_returned = n_left + info["left"].sum(), n_returned + info["returned"].sum()
        done = bool((terminated | truncated).all())
    return_rate = float(n_returned / max(1, n_left))
    return EpisodeResult(reward, turns, sessions, return_rate, float(covered.mean()))


def history_queries(
    model: Recommender, observations: Longs, users: Longs, seen: Seen | None
) -> Queries:
    """Return the queries of n users of a `ShopVectorEnv`, on the device of the model.

    Args:
        model: how much of a history it reads.
        observations: int64[n, history_length], padded on the right with the number of items.
        users: int64[n].
        seen: the items to mask.
    """
    is_item = observations != model.n_items
    past = RaggedArray.from_lengths(is_item.sum(axis=1), observations[is_item].astype(np.int32))
    length = model.history_length or observations.shape[1]
    queries = user_queries(past, np.arange(len(users)), length, model.n_items, mask_seen=False)
    return replace(queries, users=torch.from_numpy(users.astype(np.int64)), seen=seen).to(
        model.device
    )


def model_policy(model: Recommender) -> Policy:
    """Return the policy that shows the unseen items with the model's highest scores."""

    @torch.no_grad()
    def policy(observations: Longs, env: ShopVectorEnv) -> Longs:
        states, items = (torch.from_numpy(index.copy()) for index in np.nonzero(env.seen))
        seen = Seen(states, items)
        queries = history_queries(model, observations, env.users, seen)
        with eval_mode(model):
            scores = model_scores(model, queries)
            best = top_of_scores(scores, env.config.list_length, queries.seen)
        return best.items.cpu().numpy()

    return policy
