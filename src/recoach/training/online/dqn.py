"""Deep Q-learning in an environment (Mnih et al. 2015), with the model's scores as Q values."""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from recoach.errors import ConfigError
from recoach.models.base import Recommender, frozen_copy
from recoach.training.algorithms.base import Statistics
from recoach.training.algorithms.td_learning import RewardRange, TDLoss, polyak_update, td_errors
from recoach.training.online.base import OnlineAlgorithm, greedy_lists
from recoach.training.online.config import OnlineConfig
from recoach.training.online.replay import ReplayBuffer, Replayed
from recoach.training.online.rollouts import Choice, Rollout
from recoach.training.online.states import AnyVectorEnv, States, queries_of_states, read_states


class OnlineDQNConfig(OnlineConfig):
    """Settings of deep Q-learning in an environment."""

    algorithm: Literal["dqn"] = "dqn"
    """The algorithm of these settings."""
    gamma: float = Field(default=0.99, ge=0, lt=1)
    """Discount of the reward of each later turn."""
    td_loss: TDLoss = "huber"
    """Loss of the temporal difference: Huber with threshold 1, or half the square."""
    double: bool = True
    """Choose the next action by the model and evaluate it by the target network (van Hasselt et
    al. 2016)."""
    epsilon_start: float = Field(default=1.0, ge=0, le=1)
    """Probability of a random item in the first step."""
    epsilon_end: float = Field(default=0.05, ge=0, le=1)
    """Probability of a random item after `epsilon_steps` steps; in between it falls linearly."""
    epsilon_steps: int = Field(default=50, gt=0)
    """Steps over which the probability of a random item falls."""
    buffer_size: int = Field(default=50_000, gt=0)
    """Turns in the replay buffer, which is part of every checkpoint."""
    updates_per_step: int = Field(default=100, gt=0)
    """Optimiser steps after the episodes of a step."""
    minibatch_size: int = Field(default=128, gt=0)
    """Turns of an update."""
    tau: float = Field(default=0.005, gt=0, le=1)
    """Part of the model in an update of the target network (Polyak averaging)."""


class OnlineDQN(OnlineAlgorithm[OnlineDQNConfig]):
    """Regresses the score of the shown item on r + gamma max Q(next state, item).

    Targets are limited to the range of returns that the rewards so far allow.
    """

    def _build(self, env: AnyVectorEnv, seed: int) -> None:
        if self.space.length != 1:
            raise ConfigError(
                f"Algorithm 'dqn' learns the value of one item, and the environment shows lists of "
                f"{self.space.length}. Use 'ppo', 'actor_critic' or 'reinforce', or lists of one."
            )
        self.target = frozen_copy(self.model)
        self.range = RewardRange(torch.device("cpu"))
        one = read_states(env, env.reset(seed=seed)[0]).select(torch.tensor([0]))
        self.replay = ReplayBuffer(self.args.buffer_size, one)
        self.modules = {"target": self.target, "range": self.range, "replay": self.replay}
        self.before_step(0)

    def before_step(self, step: int) -> None:
        """Set the probability of a random item."""
        share = min(1.0, step / self.args.epsilon_steps)
        start, end = self.args.epsilon_start, self.args.epsilon_end
        self.epsilon = start + share * (end - start)

    def act(self, states: States, generator: torch.Generator) -> Choice:
        """Choose the item of highest Q, or a random item that is not masked."""
        items = greedy_lists(self.model, states, 1).items.cpu()
        is_random = torch.rand(states.n_states, generator=generator) < self.epsilon
        keys = torch.rand(states.n_states, self.space.n_items, generator=generator)
        if states.masked.shape[1]:
            keys = keys.masked_fill(states.masked, -1.0)
        items[is_random, 0] = keys[is_random].argmax(dim=1)
        return Choice(items, torch.zeros(states.n_states))

    def losses(
        self, rollout: Rollout, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Statistics]]:
        """Add the rollout to the replay buffer, and yield losses of drawn transitions."""
        self.range.update(rollout.rewards)
        self.replay.add(rollout)
        for _ in range(self.args.updates_per_step):
            batch, statistics = self.replay.draw(self.args.minibatch_size, generator), Statistics()
            targets = self._targets(batch, statistics)
            scores = self._q(self.model, batch.states)
            q = scores.gather(1, batch.actions[:, None].to(scores.device))[:, 0]
            errors = td_errors(q, targets, self.args.td_loss)
            statistics.add("td_loss", errors)
            statistics.add("q_mean", q)
            statistics.add("target_mean", targets)
            statistics.add("exploration", torch.tensor([self.epsilon]))
            yield errors.mean(), statistics
            polyak_update(self.target, self.model, self.args.tau)

    @torch.no_grad()
    def _targets(self, batch: Replayed, statistics: Statistics) -> Tensor:
        target_q = self._q(self.target, batch.next_states)
        chooser = self._q(self.model, batch.next_states) if self.args.double else target_q
        masked = batch.next_states.masked.to(target_q.device)
        if masked.shape[1]:
            chooser = chooser.masked_fill(masked, -torch.inf)
        best = chooser.max(dim=1, keepdim=True)
        values = target_q.gather(1, best.indices)[:, 0]
        has_next = ~batch.terminated.to(values.device) & (best.values[:, 0] > -torch.inf)
        rewards = batch.rewards.to(values.device)
        targets = rewards + self.args.gamma * values.masked_fill(~has_next, 0.0)
        clamped = self.range.clamp(targets, self.args.gamma, "event")
        statistics.add("target_clamped", (clamped != targets).float())
        return clamped

    def _q(self, model: Recommender, states: States) -> Tensor:
        """Return float[B, n_items], the scores of all items over the temperature."""
        states = states._replace(masked=states.masked[:, :0])
        return model.score(queries_of_states(model, states)) / self.args.temperature
