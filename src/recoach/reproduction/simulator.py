"""The suite `simulator`: clicks and visits of simulated customers under several policies.

The policies are a base model, continued training, GRPO with and without a novelty reward, slate
bandits, random lists and an oracle that knows the preferences of the customers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from recoach.data.dataset import Dataset
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.evaluation.beyond_accuracy import RecommendationLists, list_metrics
from recoach.evaluation.evaluator import evaluate, top_lists
from recoach.evaluation.significance import paired_bootstrap, seeds_interval
from recoach.experiments.results import StageName
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.stages import CallbackFactory, continued_training_config
from recoach.experiments.trainer import GRPOTrainer
from recoach.models.base import Recommender
from recoach.models.registry import build_model
from recoach.reproduction.paper_cells import FORMER_PRETRAIN
from recoach.simulation.shop import BROWSING, Habits, shop
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.callbacks import TrainResult
from recoach.training.context import RunContext
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain

try:
    from recoach.simulation.bandits import SlateBandit, oracle, random_policy
    from recoach.simulation.environment import RECORD_KEYS, EnvironmentConfig, ShopVectorEnv
    from recoach.simulation.episodes import EpisodeResult, Policy, model_policy, run_episodes
except ModuleNotFoundError as error:
    raise ConfigError("the simulator needs Gymnasium: pip install 'recoach[sim]'.") from error

FORMAT: Final = 1
NOVELTY: Final = (0.0, 0.3, 1.0, 3.0, 10.0)
"""Weights of the novelty reward, from accurate to novel lists.

These models keep the weights of the last step: validation measures the next click and would select
against novelty.
"""
_LIST_LENGTH: Final = 10
_CONTROL_EVALUATIONS: Final = 20
"""How often the control is evaluated on validation."""
_MIN_SEEDS_FOR_INTERVAL: Final = 3

Announce = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Simulation:
    """Size of the shop, behaviour of its customers, and training of the models."""

    seeds: tuple[int, ...]
    """Each seeds one shop, its log, the training and the episodes."""
    output: Path
    customers: int = 1500
    items: int = 600
    habits: Habits = BROWSING
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    pretrain: PretrainConfig = field(default_factory=lambda: PretrainConfig(**FORMER_PRETRAIN))
    # The shop never shows an item again, so the policy masks seen items.
    grpo: GRPOConfig = field(default_factory=lambda: GRPOConfig(mask_seen=True))

    def settings(self) -> dict[str, Any]:
        """Return every setting that the results depend on, as plain values."""
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
    """Run every seed that has no results yet and return the aggregated record.

    Raises:
        ConfigError: the folder holds a simulation with other settings.
    """
    results = []
    for seed in plan.seeds:
        folder = RunFolder(plan.output / f"seed-{seed}")
        if not (folder.path / "results.json").exists():
            announce(f"simulated shop, seed {seed}")
            with folder.lock():
                folder.write_json("results.json", _run_seed(plan, seed, folder, make_callback))
        result = folder.read_json("results.json")
        if _settings(result) != plan.settings():
            raise ConfigError(
                f"{folder.path} holds a simulation with other settings. Choose another --output."
            )
        results.append(result)
    return {
        "format": FORMAT,
        "suite": "simulator",
        "seeds": list(plan.seeds),
        "settings": plan.settings(),
        "policies": {name: _over_seeds(results, name) for name in results[0]["policies"]},
    }


def _settings(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored settings; a setting that was added later has its default."""
    stored = dict(result["settings"])
    for name, kind in (("pretrain", PretrainConfig), ("grpo", GRPOConfig)):
        stored[name] = kind.model_validate(stored[name]).model_dump(mode="json")
    return stored


def _run_seed(
    plan: Simulation, seed: int, folder: RunFolder, make_callback: CallbackFactory
) -> dict[str, Any]:
    """Return the results of every policy in one shop."""
    simulated = shop(plan.customers, plan.items, seed, habits=plan.habits)
    dataset = leave_last_out(simulated.interactions)
    models = _models(plan, seed, dataset, folder, make_callback)
    env = ShopVectorEnv(simulated, dataset, plan.environment)
    policies: dict[str, Policy] = {name: model_policy(model) for name, model in models.items()}
    policies |= {
        "random": random_policy(seed),
        "epsilon-greedy": SlateBandit(env, dataset, seed, epsilon=0.1),
        "Thompson sampling": SlateBandit(env, dataset, seed),
        "oracle": oracle,
    }
    results = {}
    for name, policy in policies.items():
        metrics = _log_metrics(models[name], dataset) if name in models else {}
        results[name] = _episode_record(run_episodes(env, policy, seed)) | {"log": metrics}
    return {"seed": seed, "settings": plan.settings(), "policies": results}


def _models(
    plan: Simulation, seed: int, dataset: Dataset, folder: RunFolder, make_callback: CallbackFactory
) -> dict[str, Recommender]:
    def context(name: str, stage: StageName) -> RunContext:
        return RunContext(
            seed=seed,
            folder=folder.path / "checkpoints" / name,
            callback=make_callback(stage),
            progress=False,
            resume=True,
        )

    def base() -> Recommender:
        model = build_model("sasrec", dataset, seed=seed)
        pretrain(model, dataset, plan.pretrain, context("base", "base"))
        return model

    def tuned(name: str, **changes: object) -> tuple[Recommender, TrainResult]:
        model, args = base(), GRPOConfig(**plan.grpo.model_dump() | changes)
        trainer = GRPOTrainer(
            model, args=args, train_dataset=dataset, context=context(name, "tuned")
        )
        return model, trainer.train()

    models = {"popularity": build_model("popularity", dataset), "base": base()}
    grpo, result = tuned("grpo")
    control, steps = base(), result.steps
    eval_steps = max(1, steps // _CONTROL_EVALUATIONS)
    config = continued_training_config(plan.pretrain, plan.grpo, steps, eval_steps)
    pretrain(control, dataset, config, context("control", "control"), start_is_candidate=True)
    models |= {"+ supervised steps": control, "+ GRPO": grpo}
    for weight in NOVELTY:
        rewards = {"reward_funcs": ("future", "novelty"), "reward_weights": (1.0, weight)}
        name = f"novelty-{weight:g}"
        models[f"+ GRPO, novelty {weight:g}"] = tuned(name, select="last", **rewards)[0]
    return models


def _log_metrics(model: Recommender, dataset: Dataset) -> dict[str, float]:
    """Return accuracy on the test items of the log, and beyond-accuracy metrics of the lists."""
    test = evaluate(model, dataset, ks=(_LIST_LENGTH,))
    lists = top_lists(model, dataset, test.targets, _LIST_LENGTH)
    recommended = RecommendationLists(lists, dataset.train, dataset.n_items)
    metrics = test.means() | list_metrics(recommended)
    return {name: round(value, 6) for name, value in metrics.items()}


def _episode_record(result: EpisodeResult) -> dict[str, Any]:
    return {
        "reward": result.reward.tolist(),
        "turns": result.turns.tolist(),
        "sessions": result.sessions.tolist(),
        "return_rate": result.return_rate,
        "coverage": result.coverage,
    }


def _over_seeds(results: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Return the means of a policy over seeds, and the comparison with the base model."""
    policy = [result["policies"][name] for result in results]
    base = [result["policies"]["base"] for result in results]
    record: dict[str, Any] = {}
    for metric in ("reward", "turns", "sessions"):
        means = [float(np.mean(one[metric])) for one in policy]
        base_means = [float(np.mean(one[metric])) for one in base]
        values, base_values = (
            np.concatenate([one[metric] for one in seeds]) for seeds in (policy, base)
        )
        against = paired_bootstrap(values, base_values).to_record()
        if len(means) >= _MIN_SEEDS_FOR_INTERVAL:
            differences = [mean - other for mean, other in zip(means, base_means, strict=True)]
            against["seeds"] = seeds_interval(differences)
        record[metric] = {"mean": float(np.mean(means)), "each": means, "against_base": against}
    for metric in ("return_rate", "coverage"):
        record[metric] = float(np.mean([one[metric] for one in policy]))
    record["log"] = {
        metric: float(np.mean([one["log"][metric] for one in policy]))
        for metric in policy[0]["log"]
    }
    return record
