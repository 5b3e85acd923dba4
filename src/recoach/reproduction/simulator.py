"""What becomes of simulated customers under a base, its control, GRPO, and what else may serve."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from recoach.data.split import Dataset, leave_last_out
from recoach.errors import ConfigError
from recoach.evaluation.beyond_accuracy import list_metrics
from recoach.evaluation.evaluator import evaluate, top_lists
from recoach.evaluation.significance import paired_bootstrap, seeds_interval
from recoach.experiments.results import StageName
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.stages import CallbackFactory, continued_training_config
from recoach.models.base import Recommender
from recoach.models.registry import build_model
from recoach.simulation.shop import BROWSING, Habits, shop
from recoach.training.callbacks import TrainResult
from recoach.training.config import GRPOConfig
from recoach.training.loop import RunContext
from recoach.training.supervised import PretrainConfig, pretrain
from recoach.training.trainer import GRPOTrainer

try:
    from recoach.simulation.bandits import SlateBandit, oracle, random_policy
    from recoach.simulation.environment import RECORD_KEYS, EnvironmentConfig, ShopVectorEnv
    from recoach.simulation.episodes import EpisodeResult, Policy, model_policy, run_episodes
except ModuleNotFoundError as error:
    raise ConfigError("the simulator needs Gymnasium: pip install 'recoach[sim]'.") from error

FORMAT: Final = 1
NOVELTY: Final = (0.0, 0.3, 1.0, 3.0, 10.0)
"""Weights of a novelty reward beside the default one: the way along the front. Their last weights
are taken: validation looks at the next click, and may refuse what is good for the longer run."""
_LISTS: Final = 10
_LOOKS: Final = 20
"""How often the control is looked at on validation."""

Announce = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Simulation:
    """How large a shop, how people behave, how models are trained."""

    seeds: tuple[int, ...]
    """Each one draws a shop, its log, the training and the customers' luck."""
    output: Path
    customers: int = 1500
    items: int = 600
    habits: Habits = BROWSING
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    # The shop shows nothing again.
    grpo: GRPOConfig = field(default_factory=lambda: GRPOConfig(mask_seen=True))

    def settings(self) -> dict[str, Any]:
        """Return what decides the figures, as plain values."""
        return {
            "customers": self.customers,
            "items": self.items,
            "habits": asdict(self.habits),
            "moods": {RECORD_KEYS.get(k, k): v for k, v in asdict(self.environment).items()},
            "pretrain": self.pretrain.model_dump(mode="json"),
            "grpo": self.grpo.model_dump(mode="json"),
            "novelty": list(NOVELTY),
        }


def simulate(
    plan: Simulation, make_callback: CallbackFactory, announce: Announce
) -> dict[str, Any]:
    """Play every seed that is not played yet and return the joined record.

    Raises:
        ConfigError: the folder holds a simulation with other settings.
    """
    worlds = []
    for seed in plan.seeds:
        folder = RunFolder(plan.output / f"seed-{seed}")
        if not (folder.path / "results.json").exists():
            announce(f"simulated shop, seed {seed}")
            with folder.lock():
                folder.write_json("results.json", _world(plan, seed, folder, make_callback))
        world = folder.read_json("results.json")
        if _settings(world) != plan.settings():
            raise ConfigError(
                f"{folder.path} holds a simulation with other settings; choose another --output."
            )
        worlds.append(world)
    return {
        "format": FORMAT,
        "suite": "simulator",
        "seeds": list(plan.seeds),
        "settings": plan.settings(),
        "policies": {name: _joined(worlds, name) for name in worlds[0]["policies"]},
    }


def _settings(world: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a record; one that came later had its default."""
    stored = dict(world["settings"])
    for name, kind in (("pretrain", PretrainConfig), ("grpo", GRPOConfig)):
        stored[name] = kind.model_validate(stored[name]).model_dump(mode="json")
    return stored


def _world(
    plan: Simulation, seed: int, folder: RunFolder, make_callback: CallbackFactory
) -> dict[str, Any]:
    """Return what each policy came to in one shop."""
    made = shop(plan.customers, plan.items, seed, habits=plan.habits)
    dataset = leave_last_out(made.interactions)
    models = _models(plan, seed, dataset, folder, make_callback)
    env = ShopVectorEnv(made, dataset, plan.environment)
    policies: dict[str, Policy] = {name: model_policy(model) for name, model in models.items()}
    policies |= {
        "random": random_policy(seed),
        "epsilon-greedy": SlateBandit(env, dataset, seed, epsilon=0.1),
        "Thompson sampling": SlateBandit(env, dataset, seed),
        "oracle": oracle,
    }
    found = {}
    for name, policy in policies.items():
        judged = _judged(models[name], dataset) if name in models else {}
        found[name] = _episode_record(run_episodes(env, policy, seed)) | {"log": judged}
    return {"seed": seed, "settings": plan.settings(), "policies": found}


def _models(
    plan: Simulation, seed: int, dataset: Dataset, folder: RunFolder, make_callback: CallbackFactory
) -> dict[str, Recommender]:
    def context(name: str, stage: StageName) -> RunContext:
        return RunContext(
            seed=seed,
            folder=folder.path / "checkpoints" / name,
            callback=make_callback(stage),
            resume=True,
        )

    def base() -> Recommender:
        model = build_model("sasrec", dataset, seed=seed)
        pretrain(model, dataset, plan.pretrain, context("base", "base"))
        return model

    def tuned(name: str, **changes: object) -> tuple[Recommender, TrainResult]:
        model, args = base(), GRPOConfig.model_validate(plan.grpo.model_dump() | changes)
        trainer = GRPOTrainer(
            model, args=args, train_dataset=dataset, context=context(name, "tuned")
        )
        return model, trainer.train()

    models = {"popularity": build_model("popularity", dataset), "base": base()}
    better, outcome = tuned("grpo")
    control, steps = base(), outcome.steps
    budget = continued_training_config(plan.pretrain, plan.grpo, steps, max(1, steps // _LOOKS))
    pretrain(control, dataset, budget, context("control", "control"), start_is_candidate=True)
    models |= {"+ supervised steps": control, "+ GRPO": better}
    for weight in NOVELTY:
        rewards = {"reward_funcs": ("future", "novelty"), "reward_weights": (1.0, weight)}
        name = f"novelty-{weight:g}"
        models[f"+ GRPO, novelty {weight:g}"] = tuned(name, select="last", **rewards)[0]
    return models


def _judged(model: Recommender, dataset: Dataset) -> dict[str, float]:
    """Return accuracy on the log's test items and what the lists are like."""
    test = evaluate(model, dataset, ks=(_LISTS,))
    lists = top_lists(model, dataset, test.users, _LISTS)
    found = test.means() | list_metrics(lists, dataset.train, dataset.n_items)
    return {name: round(value, 6) for name, value in found.items()}


def _episode_record(result: EpisodeResult) -> dict[str, Any]:
    return {
        "reward": result.reward.tolist(),
        "turns": result.turns.tolist(),
        "sessions": result.sessions.tolist(),
        "return_rate": result.return_rate,
        "coverage": result.coverage,
    }


def _joined(worlds: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Return a policy's means over seeds, and how its customers fare against the base's."""
    played = [world["policies"][name] for world in worlds]
    bases = [world["policies"]["base"] for world in worlds]
    found: dict[str, Any] = {}
    for figure in ("reward", "turns", "sessions"):
        means = [float(np.mean(one[figure])) for one in played]
        before = [float(np.mean(one[figure])) for one in bases]
        ours, theirs = (np.concatenate([o[figure] for o in part]) for part in (played, bases))
        against = paired_bootstrap(ours, theirs)._asdict()
        if len(means) > 2:
            gaps = [mine - other for mine, other in zip(means, before, strict=True)]
            against["seeds"] = seeds_interval(gaps)
        found[figure] = {"mean": float(np.mean(means)), "each": means, "against_base": against}
    for figure in ("return_rate", "coverage"):
        found[figure] = float(np.mean([one[figure] for one in played]))
    found["log"] = {
        key: float(np.mean([one["log"][key] for one in played])) for key in played[0]["log"]
    }
    return found
