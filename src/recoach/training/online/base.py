"""The contract of an algorithm that learns by acting."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from recoach.evaluation.model_scores import model_scores
from recoach.evaluation.ranking import top_of_scores
from recoach.models.base import Recommender
from recoach.models.distribution import Block, Distribution
from recoach.policy.policy import Policy
from recoach.training.algorithms.base import Statistics
from recoach.training.algorithms.grpo.slate import plackett_luce
from recoach.training.online.config import OnlineConfig
from recoach.training.online.rollouts import Choice, Rollout
from recoach.training.online.states import (
    ActionSpace,
    AnyVectorEnv,
    States,
    action_space,
    queries_of_states,
)

Settings = TypeVar("Settings", bound=OnlineConfig)
_STATES_AT_ONCE = 4096


class OnlineAlgorithm(ABC, Generic[Settings]):
    """Chooses actions and turns the episodes that follow into losses; the trainer does the rest.

    A step calls `before_step`, plays one episode in every environment with `act`, and takes one
    optimiser step for each loss of `losses`. Every random draw comes from the generator that is
    handed in.

    Args:
        args: the algorithm's settings.
        model: trained in place.
        env: the environment; its observations and actions have been checked.
        seed: of the initial weights of further modules.

    Attributes:
        modules: the modules beside the model that change in training, saved in checkpoints under
            these names; parameters that require gradients are trained.
    """

    def __init__(self, args: Settings, model: Recommender, env: AnyVectorEnv, seed: int) -> None:
        self.args, self.model = args, model
        self.space: ActionSpace = action_space(env)
        self.policy = Policy(args.temperature, exact_products=True)
        self.modules: Mapping[str, nn.Module] = {}
        self._build(env, seed)

    def _build(self, env: AnyVectorEnv, seed: int) -> None:
        """Build `modules`."""

    def before_step(self, step: int) -> None:
        """Called before each step, after `step` steps; a resumed run calls it once too."""

    @abstractmethod
    def act(self, states: States, generator: torch.Generator) -> Choice:
        """Choose lists for training, without gradients."""

    @abstractmethod
    def losses(
        self, rollout: Rollout, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Statistics]]:
        """Yield losses and what to log; each is followed by an optimiser step."""

    def distribution(self, states: States) -> Distribution:
        """Return the policy of the model for states."""
        return self.policy.distribution(self.model, queries_of_states(self.model, states))


def greedy_lists(model: Recommender, states: States, length: int) -> Choice:
    """Return the items of highest score that are not masked, best first; nothing is drawn."""
    queries = queries_of_states(model, states)
    best = top_of_scores(model_scores(model, queries), length, queries.seen)
    return Choice(best.items, torch.zeros(states.n_states))


def list_log_probs(block: Block, lists: Tensor) -> Tensor:
    """Return float[b], the log-probabilities of int64[b, length] lists (Plackett-Luce)."""
    return plackett_luce(block, lists[:, None])[:, 0].sum(dim=1)


def chunks(n_states: int) -> Iterator[slice]:
    """Yield the ranges in which many states are computed without gradient."""
    for start in range(0, n_states, _STATES_AT_ONCE):
        yield slice(start, min(start + _STATES_AT_ONCE, n_states))
