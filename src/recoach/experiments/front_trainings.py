"""The trainings of a front: fine-tunings with growing reward weight, and imitated re-rankers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from recoach.errors import ConfigError
from recoach.experiments.base_copy import copy_base
from recoach.experiments.config import override
from recoach.experiments.front_objectives import FrontObjective, list_settings, reward_of
from recoach.experiments.stages import CallbackFactory, Run, open_run
from recoach.models.base import Recommender
from recoach.rerank.config import RerankConfig
from recoach.rerank.features import ItemFeatures
from recoach.training.trainer import RLTrainer

WEIGHTS: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
"""Weights of the objective's reward beside that of the log, which has 1."""


@dataclass(frozen=True)
class FrontPlan:
    """A front to compute."""

    run: Path
    """The run whose base is fine-tuned and re-ranked; it is only read."""
    objective: FrontObjective
    output: Path
    """Folder of the fine-tunings and of the results."""
    k: int = 10
    depth: int = 100
    """Number of best items of the base that re-rankers choose from."""
    weights: Sequence[float] = WEIGHTS
    steps: int = 0
    """Steps of each training; 0 leaves them to the settings of the run."""
    category: str | None = None
    """See `RerankConfig.category`."""
    column: str | None = None
    """Column of the items table with values, for the objective `value`."""
    changes: Sequence[str] = ()
    """Settings of GRPO, as `--set` takes them."""

    def __post_init__(self) -> None:
        if not self.weights or min(self.weights) <= 0:
            raise ConfigError("--weights must be numbers above 0.")
        if self.column is not None and self.objective != "value":
            raise ConfigError("--column is for --objective value only. Leave it out.")


def fine_tuned(
    plan: FrontPlan, features: ItemFeatures, weight: float, make_callback: CallbackFactory
) -> Recommender:
    """Return the base after fine-tuning with a weight of the objective's reward.

    The objective's reward is a function and no setting: config.toml of the folder lacks it. What an
    earlier call has trained is loaded.
    """
    settings = list_settings(plan.objective, plan.k)
    changes = [override(f"finetune.{name}", value) for name, value in settings.items()]
    name = f"{plan.objective}-{weight:g}"
    with _opened(plan, name, [*changes, *plan.changes], make_callback) as run:
        extra = reward_of(plan.objective, run.dataset, features, plan.column)
        model, args = run.load_base(), run.config.finetune
        weights = (*(args.reward_weights or [1.0] * len(args.reward_funcs)), weight)
        trainer = RLTrainer(
            model,
            [*args.reward_funcs, extra],
            args.model_copy(update={"reward_weights": weights}),
            train_dataset=run.dataset,
            context=run.context("tuned"),
        )
        trainer.train()
    return model.eval()


def imitated(plan: FrontPlan, teacher: RerankConfig, make_callback: CallbackFactory) -> Recommender:
    """Return the base after learning to rank as a re-ranker does; an earlier result is loaded."""
    settings = teacher.model_dump(exclude_none=True)
    changes = [
        override("finetune.algorithm", "imitation"),
        *(override(f"finetune.rerank.{name}", value) for name, value in settings.items()),
        override("finetune.list_length", plan.k),
    ]
    name = f"imitation-{teacher.by}-{teacher.knob:g}"
    with _opened(plan, name, changes, make_callback) as run:
        return run.train_tuned().model.eval()


@contextmanager
def _opened(
    plan: FrontPlan, name: str, changes: Sequence[str], make_callback: CallbackFactory
) -> Iterator[Run]:
    """Yield a run that has the base of the plan's run and other settings of fine-tuning."""
    steps = [override("finetune.max_steps", plan.steps)] if plan.steps else []
    folder = copy_base(plan.run, plan.output / "fine-tunings" / name, resume=True)
    with folder.lock():
        config = folder.prepare_finetuning([*changes, *steps], resume=True)
        yield open_run(config, folder.path, resume=True, make_callback=make_callback, stored=True)
