"""What REINFORCE, actor-critic and PPO in environments share: rollout, critic, advantages, loss."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from recoach.models.base import dot_product
from recoach.models.distribution import Block
from recoach.training.algorithms.base import Statistics
from recoach.training.online.advantages import generalised_advantages, leave_one_out
from recoach.training.online.base import OnlineAlgorithm, chunks, list_log_probs
from recoach.training.online.config import OnlineConfig
from recoach.training.online.observation_model import ObservationModel
from recoach.training.online.rollouts import Choice, Rollout
from recoach.training.online.states import AnyVectorEnv, States, queries_of_states

_TINY = 1e-8


class Updates(NamedTuple):
    """The optimiser steps on a rollout."""

    n_epochs: int = 1
    minibatch_size: int = 0
    """Turns of an update; 0 for all of them."""
    target_kl: float = 0.0
    """Estimated KL, in nats, at which the updates end; 0 for never."""


class PolicyGradientConfig(OnlineConfig):
    """Settings of all policy gradients."""

    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """Weight of longer estimates in the advantage: 0 is the one-step temporal difference, 1 the
    discounted return minus the baseline (Schulman et al. 2016)."""
    entropy_coef: float = Field(default=0.01, ge=0)
    """Weight of the entropy of the first place of a list."""
    critic_dim: int = Field(default=64, gt=0)
    """Width of the two hidden layers of the critic."""
    critic_learning_rate: float = Field(default=1e-3, gt=0)
    """Step size of Adam for the critic."""
    value_coef: float = Field(default=0.5, gt=0)
    """Weight of the squared error of the critic."""

    @property
    def updates(self) -> Updates:
        """The optimiser steps on a rollout."""
        return Updates()

    @property
    def has_critic(self) -> bool:
        """Whether the baseline is learned; without a critic it is the mean of other users."""
        return True


Settings = TypeVar("Settings", bound=PolicyGradientConfig)


class PolicyGradient(OnlineAlgorithm[Settings]):
    """Raises the log-probability of lists with a positive advantage.

    The critic V is a network of the observation, or, for a recommender, of its state vector as it
    is when the episodes begin. No gradient flows from the critic into the model.

    A subclass defines `surrogate`.
    """

    def _build(self, env: AnyVectorEnv, seed: int) -> None:
        if not self.args.has_critic:
            return
        shape = env.single_observation_space.shape or ()
        observations = torch.zeros(1, *shape, dtype=torch.int64)
        one = States(observations, torch.zeros(1, dtype=torch.int64), torch.zeros(1, 0))
        n_features, width = self._features(one).shape[1], self.args.critic_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hidden = (nn.Linear(n_features, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
            critic = nn.Sequential(*hidden, nn.Linear(width, 1))
        self.modules = {"critic": critic.to(self.model.device)}

    @abstractmethod
    def surrogate(self, log_ratio: Tensor, advantages: Tensor, statistics: Statistics) -> Tensor:
        """Return float[b], what is maximised for lists.

        Args:
            log_ratio: float[b] log-probability minus that under the policy that drew the lists.
            advantages: float[b].
            statistics: what to log.
        """

    def act(self, states: States, generator: torch.Generator) -> Choice:
        """Draw Plackett-Luce lists from the policy."""
        items, log_probs = [], []
        for block in self.distribution(states).blocks():
            lists = block.draw_lists(1, self.space.length, generator)[:, 0]
            items.append(lists)
            log_probs.append(list_log_probs(block, lists).detach())
        return Choice(torch.cat(items), torch.cat(log_probs))

    def losses(
        self, rollout: Rollout, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Statistics]]:
        """Yield the losses of minibatches of the active turns."""
        rows = rollout.rows
        advantages, targets, features = self._advantages(rollout)
        chosen = advantages[rollout.active]
        whitened = (chosen - chosen.mean()) / (chosen.std(correction=0) + _TINY)
        actions, old = rollout.actions[rollout.active], rollout.log_probs[rollout.active]
        n_epochs, minibatch_size, target_kl = self.args.updates
        for _ in range(n_epochs):
            order = torch.randperm(len(rows), generator=generator)
            for part in torch.split(order, minibatch_size or len(rows)):
                statistics = Statistics()
                batch = rollout.states.select(rows[part])
                loss = self._policy_loss(
                    batch, (actions[part], old[part], whitened[part]), statistics
                )
                if target_kl and statistics.means()["approx_kl"] > target_kl:
                    return
                if features is not None:
                    value = self.modules["critic"](features[rows[part]])[:, 0]
                    error = (value - targets[rollout.active][part].to(value.device)).square()
                    statistics.add("value_loss", error)
                    loss = loss + self.args.value_coef * error.mean()
                yield loss, statistics

    def _policy_loss(
        self, states: States, chosen: tuple[Tensor, Tensor, Tensor], statistics: Statistics
    ) -> Tensor:
        """Return minus the surrogate and the entropy bonus, averaged over the states.

        Args:
            states: B states.
            chosen: the lists int64[B, length], their former log-probabilities float[B] and their
                advantages float[B].
            statistics: what to log.
        """
        device = self.model.device
        lists, old, advantages = (values.to(device) for values in chosen)

        def block_loss(block: Block) -> Tensor:
            log_ratio = list_log_probs(block, lists[block.which]) - old[block.which]
            entropies = block.entropies()
            detached = log_ratio.detach()
            statistics.add("approx_kl", detached.exp() - 1 - detached)
            statistics.add("entropy", entropies)
            gain = self.surrogate(log_ratio, advantages[block.which], statistics)
            return -(gain.sum() + self.args.entropy_coef * entropies.sum()) / states.n_states

        return self.distribution(states).loss(block_loss)

    @torch.no_grad()
    def _advantages(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return float[T, n] advantages and targets of V, and the inputs of the critic."""
        shape = rollout.rewards.shape
        gamma, gae_lambda = self.args.gamma, self.args.gae_lambda
        if not self.args.has_critic:
            zeros = torch.zeros(shape[0] + 1, shape[1])
            returns = generalised_advantages(rollout, zeros, gamma, 1.0)
            return returns - leave_one_out(returns, rollout.active), returns, None
        states = rollout.states
        parts = [
            self._features(States(*(t[which] for t in states))) for which in chunks(states.n_states)
        ]
        features = torch.cat(parts)
        values = self.modules["critic"](features)[:, 0].cpu().view(shape[0] + 1, shape[1])
        advantages = generalised_advantages(rollout, values, gamma, gae_lambda)
        return advantages, advantages + values[:-1], features

    @torch.no_grad()
    def _features(self, states: States) -> Tensor:
        """Return float[N, F], what the critic reads of N states."""
        if isinstance(self.model, ObservationModel):
            return states.observations.float().to(self.model.device)
        model = dot_product(self.model, "A critic")
        return model.embed(queries_of_states(model, states)).users
