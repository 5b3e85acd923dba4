"""Trains a model by acting in a Gymnasium environment."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from recoach import distributed
from recoach.errors import ConfigError
from recoach.models.base import Recommender
from recoach.training.algorithms.base import Statistics
from recoach.training.callbacks import Callback, StateRecorder, TrainerState, TrainResult
from recoach.training.context import RunContext
from recoach.training.contract import read_logs
from recoach.training.loop import Loop, derive
from recoach.training.online.actor_critic import OnlineActorCritic, OnlineActorCriticConfig
from recoach.training.online.base import OnlineAlgorithm, greedy_lists
from recoach.training.online.config import OnlineConfig
from recoach.training.online.coverage import CoverageMonitor
from recoach.training.online.dqn import OnlineDQN, OnlineDQNConfig
from recoach.training.online.policy_gradient import PolicyGradientConfig
from recoach.training.online.ppo import OnlinePPO, OnlinePPOConfig
from recoach.training.online.reinforce import OnlineReinforce, OnlineReinforceConfig
from recoach.training.online.rollouts import EpisodeMeans, collect_episodes, episode_means
from recoach.training.online.states import AnyVectorEnv, action_space, check_model
from recoach.training.reporting import reporting
from recoach.training.work import StepWork


class OnlineEntry(NamedTuple):
    """An algorithm and its settings."""

    config: type[OnlineConfig]
    algorithm: type[OnlineAlgorithm[Any]]


ONLINE_ALGORITHMS: Final[dict[str, OnlineEntry]] = {
    "ppo": OnlineEntry(OnlinePPOConfig, OnlinePPO),
    "reinforce": OnlineEntry(OnlineReinforceConfig, OnlineReinforce),
    "actor_critic": OnlineEntry(OnlineActorCriticConfig, OnlineActorCritic),
    "dqn": OnlineEntry(OnlineDQNConfig, OnlineDQN),
}
"""The algorithms by name; a new one is its own file and one line here."""


class OnlineTrainer:
    """Trains a model in place by playing episodes: environment, optimiser, selection, checkpoints.

    Each step resets the environments with a seed of its own, so that a resumed training ends with
    exactly the weights of an uninterrupted one. Dropout is off. The weights before training are a
    candidate of the selection by return.

    Args:
        model: a recommender, in a `ShopVectorEnv`; an `ObservationModel`, where observations are
            vectors.
        env: a Gymnasium vector environment whose actions are items or lists of items.
        args: settings, whose class selects the algorithm.
        eval_env: plays the episodes of the evaluations; not `env` itself.
        callbacks: called at every step, at every evaluation and at the end.
        context: seed, checkpoints, progress and trackers.

    Attributes:
        state: how far the training is, see `TrainerState`.
        interactions: turns played for training since this object was made, without evaluations.

    Raises:
        ConfigError: the model or the algorithm does not fit the environment, or there are several
            processes.
    """

    def __init__(
        self,
        model: Recommender,
        env: AnyVectorEnv,
        args: OnlineConfig,
        *,
        eval_env: AnyVectorEnv,
        callbacks: Sequence[Callback] = (),
        context: RunContext | None = None,
    ) -> None:
        for environment in (env, eval_env):
            check_model(model, environment)
        if distributed.world_size() > 1:
            raise ConfigError("Training in an environment runs in one process; leave out torchrun.")
        self.model, self.env, self.args, self.eval_env = model.eval(), env, args, eval_env
        self.context, self._callbacks = context or RunContext(), tuple(callbacks)
        self.state, self.interactions = TrainerState(), 0
        self._work = StepWork(0, 0, 0)
        seed = derive(self.context.seed, "modules")
        entry = ONLINE_ALGORITHMS[args.algorithm]
        self.algorithm: OnlineAlgorithm[Any] = entry.algorithm(args, model, env, seed)
        self.optimiser = self._new_optimiser()

    def _new_optimiser(self) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [{"params": list(self.model.parameters())}]
        modules = self.algorithm.modules.values()
        extra = [p for module in modules for p in module.parameters() if p.requires_grad]
        if extra and isinstance(self.args, PolicyGradientConfig):
            groups.append({"params": extra, "lr": self.args.critic_learning_rate})
        return torch.optim.Adam(groups, lr=self.args.learning_rate)

    def train(self) -> TrainResult:
        """Train and leave the selected weights in the model.

        Warns where the policy shows everybody the same few items.
        """
        settings = {"seed": self.context.seed, "online": self.args.model_dump(mode="json")}
        schedule, self.state = self.args.schedule(), TrainerState()
        callbacks = [
            CoverageMonitor(),
            StateRecorder(self.state, schedule.metric),
            *self._callbacks,
        ]
        with reporting(self.context, "tuned", settings, schedule.metric, callbacks) as context:
            return Loop(self, schedule, self._evaluate, context).run()

    def evaluate(self, seed: int = 0, *, no_repeat: bool = False) -> EpisodeMeans:
        """Play one episode in every evaluation environment with the items of highest score.

        Args:
            seed: of the environments.
            no_repeat: never show an item twice in an episode.
        """
        return evaluate_policy(
            self.model,
            self.eval_env,
            seed,
            no_repeat=no_repeat,
            max_turns=self.args.max_turns,
        )

    def _evaluate(self, model: Recommender) -> dict[str, float]:
        seed = derive(self.context.seed, "evaluation")
        result, no_repeat = self.evaluate(seed), self.evaluate(seed, no_repeat=True)
        return {
            "return": float(result.returns.mean()),
            "turns": float(result.turns.mean()),
            "coverage": result.coverage,
            "repeats": result.repeats,
            "no_repeat_return": float(no_repeat.returns.mean()),
        }

    def epoch(self, generator: torch.Generator) -> Iterator[int]:
        """Yield the numbers of the steps."""
        yield from range(self.args.max_steps)

    def step(self, batch: int, generator: torch.Generator) -> dict[str, float]:
        """Play one episode in every environment and learn from it."""
        seed = int(torch.randint(2**31, (), generator=generator))
        rollout = collect_episodes(
            self.env,
            lambda states: self.algorithm.act(states, generator),
            seed,
            max_turns=self.args.max_turns,
        )
        turns = int(rollout.active.sum())
        self.interactions += turns
        sums, n_updates = dict[str, float](), 0
        for loss, statistics in self.algorithm.losses(rollout, generator):
            logs = self._update(loss, statistics)
            n_updates += 1
            sums = {name: sums.get(name, 0.0) + value for name, value in logs.items()}
        means = {name: value / n_updates for name, value in sums.items()}
        self._work = StepWork(turns, turns if self.model.history_length else 0, n_updates)
        played = {
            "train_return": float(rollout.rewards.sum(dim=0).mean()),
            "interactions": float(turns),
            "updates": float(n_updates),
        }
        return {"loss": 0.0} | means | played

    def _update(self, loss: torch.Tensor, statistics: Statistics) -> dict[str, float]:
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = chain(*(group["params"] for group in self.optimiser.param_groups))
        limit = self.args.max_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(list(parameters), limit)
        self.optimiser.step()
        return read_logs({"loss": loss, "grad_norm": norm, **statistics.means()})

    def before_step(self, step: int) -> None:
        """Tell the algorithm the number of finished steps."""
        self.algorithm.before_step(step)

    def checkpointed_modules(self) -> Mapping[str, nn.Module]:
        """Return the algorithm's modules, which checkpoints save and restore by their names."""
        return self.algorithm.modules

    def work(self, batch: int) -> StepWork:
        """Return the turns that the last step has played, each a state, and its updates."""
        return self._work

    def users(self, batch: int) -> list[str]:
        """Return no ids: episodes have no batch of users."""
        return []

    def diagnostics(self) -> dict[str, float]:
        """Return nothing beside the logs of the steps."""
        return {}

    def __len__(self) -> int:
        return self.args.max_steps


def evaluate_policy(
    model: Recommender,
    env: AnyVectorEnv,
    seed: int,
    *,
    no_repeat: bool = False,
    max_turns: int = 0,
) -> EpisodeMeans:
    """Play one episode in every environment with the items of highest score.

    Args:
        model: chooses the items.
        env: reset first.
        seed: of the environments.
        no_repeat: never show an item twice in an episode.
        max_turns: turns after which an episode is truncated; 0 leaves it to the environment.
    """
    space = action_space(env)
    rollout = collect_episodes(
        env,
        lambda states: greedy_lists(model, states, space.length),
        seed,
        max_turns=max_turns,
        no_repeat=no_repeat,
    )
    return episode_means(rollout, space.n_items)
