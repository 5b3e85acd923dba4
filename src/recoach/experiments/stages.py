"""The stages of a run: base, tuned and control; each resumes from its last checkpoint.

With `[evaluation] retrain` the same stages are trained again on train and validation.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from recoach import distributed
from recoach.data.dataset import Dataset, drop_last, merge_valid
from recoach.errors import ConfigError, DataError, RunError
from recoach.experiments.config import ExperimentConfig
from recoach.experiments.data import check_trainable, run_dataset
from recoach.experiments.results import StageName, TrainedModel, TrainedStages, write_results
from recoach.experiments.run_folder import RETRAINED, RunFolder
from recoach.models.base import Recommender
from recoach.models.checkpoint import load_model, save_description, save_tensors
from recoach.models.registry import build_from_config, model_traits
from recoach.training.callbacks import Callback, CallbackList, TrainResult
from recoach.training.config import FinetuneConfig
from recoach.training.context import RunContext
from recoach.training.crossfit import CrossFitted, Fit
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.trainer import RLTrainer

CallbackFactory = Callable[[str], Callback]
"""Returns the callback for a stage, or for the base model of a fold, by its name."""


def planned_stages(config: ExperimentConfig, dataset: Dataset) -> tuple[StageName, ...]:
    """Return the stages that a run consists of; with `retrain` each is trained a second time.

    A model without a loss of its own has no control.
    """
    needs, has_weights = model_traits(config.model_name, config.model, dataset)
    if not config.finetune_enabled or not has_weights:
        return ("base",)
    is_controlled = config.evaluation.control and bool(needs)
    return ("base", "tuned", "control") if is_controlled else ("base", "tuned")


class MetricsLogger(Callback):
    """Appends evaluations to the run's metrics.jsonl."""

    def __init__(self, folder: RunFolder, stage: str) -> None:
        self._folder, self._stage = folder, stage

    def on_row(self, row: dict[str, float]) -> None:
        """Append a row."""
        self._folder.append_metrics(self._stage, row)


@dataclass(frozen=True, slots=True)
class Run:
    """An opened run: its configuration, folder and dataset, and the training of its stages."""

    config: ExperimentConfig
    folder: RunFolder
    dataset: Dataset
    make_callback: CallbackFactory
    selected: Mapping[str, TrainResult] = field(default_factory=dict)
    """The results of the stages that are trained again, if these are."""
    progress: bool = False
    """Whether trainings show a progress bar of their own."""

    def again(self, trained: Mapping[StageName, TrainedModel]) -> "Run":
        """Return the run that trains its stages again on train and validation."""
        selected = {str(stage): model.result for stage, model in trained.items()}
        return replace(self, dataset=merge_valid(self.dataset), selected=selected)

    @property
    def is_complete(self) -> bool:
        """Whether all stages have finished training."""
        names: list[str] = [*planned_stages(self.config, self.dataset)]
        if self.config.evaluation.retrains(self.dataset.split):
            names += [f"{name}{RETRAINED}" for name in names]
        return all(self.folder.is_complete(name) for name in names)

    def stage_folder(self, stage: str) -> str:
        """Return the name of a stage in the run folder."""
        return f"{stage}{RETRAINED}" if self.selected else stage

    def context(self, stage: str) -> RunContext:
        """Return the training context of a stage, which resumes from its last checkpoint.

        Trained again, the base model of a fold takes as many steps as the base.
        """
        name = self.stage_folder(stage)
        return RunContext(
            seed=self.config.seed,
            repeats=self.config.evaluation.repeats,
            folder=self.folder.checkpoints(name),
            callback=CallbackList([MetricsLogger(self.folder, name), self.make_callback(name)]),
            resume=True,
            selected=self.selected.get(stage, self.selected.get("base")),
            progress=self.progress,
        )

    def train_base(self) -> TrainedModel:
        """Train the base model with its supervised loss; one without a loss stays as built."""
        return self._train_supervised(self.dataset, "base")

    def train_tuned(self) -> TrainedModel:
        """Fine-tune the base model, or train a fresh one in the same way."""
        args = self.config.finetune
        model = self.start_model(args)
        if self.selected:
            args = args.model_copy(update={"temperature": self._fitted_temperature()})
        return TrainedModel(model, self.finetune(model, args, self.context("tuned")))

    def finetune(
        self, model: Recommender, args: FinetuneConfig, context: RunContext
    ) -> TrainResult:
        """Fine-tune a model; the base models of a cross-fitted reward are trained first."""
        functions = [
            CrossFitted(self.dataset, self._fit_fold(args), args, context.repeats)
            if name == "cross_fitted"
            else name
            for name in args.reward_funcs
        ]
        trainer = RLTrainer(model, functions, args, train_dataset=self.dataset, context=context)
        if not self.folder.is_complete(self.stage_folder("tuned")):
            for function in functions:
                if isinstance(function, CrossFitted):
                    function.weights()
        return trainer.train()

    def train_control(self, steps: int, eval_steps: int, decay_steps: int = 0) -> TrainedModel:
        """Continue supervised training of the base model with the budget of fine-tuning.

        Args:
            steps: number of steps.
            eval_steps: steps between two evaluations.
            decay_steps: steps over which the learning rate is scheduled; 0 stands for `steps`.
        """
        model, settings = self.load_base(), self.config
        config = continued_training_config(settings.pretrain, settings.finetune, steps, eval_steps)
        context = replace(self.context("control"), decay_steps=decay_steps)
        result = pretrain(model, self.dataset, config, context, start_is_candidate=True)
        return TrainedModel(model, result)

    def load_base(self) -> Recommender:
        """Return the trained base model, bound to all of the training data (graph, histories)."""
        folder = self.folder.checkpoints(self.stage_folder("base"))
        return load_model(folder, self.dataset).to(_device())

    def start_model(self, args: FinetuneConfig) -> Recommender:
        """Return the model that fine-tuning starts with: the base, or one with fresh weights."""
        return self.load_base() if args.start == "base" else self._fresh_model(self.dataset)

    def _fresh_model(self, dataset: Dataset, *, pretrained: bool = False) -> Recommender:
        """Return an untrained model of the run's settings and seed, bound to a dataset."""
        name, config, seed = self.config.model_name, self.config.model, self.config.seed
        model = build_from_config(name, config, dataset, seed=seed, pretrained=pretrained)
        return model.to(_device())

    def _fitted_temperature(self) -> float:
        """Return the temperature of the fine-tuning whose selection is repeated."""
        rows = [row for row in self.folder.metrics() if row["stage"] == "tuned"]
        if not rows or "temperature" not in rows[-1]:
            raise RunError(
                f"{self.folder.path / 'metrics.jsonl'} lacks the temperature of the fine-tuning; "
                "restore the file, or set finetune.temperature in another folder."
            )
        return float(rows[-1]["temperature"])

    def _train_supervised(self, dataset: Dataset, stage: str) -> TrainedModel:
        """Build a model and train it with its supervised loss, if it has one, on a dataset."""
        train = drop_last(dataset.train, self.config.pretrain.hold_out)
        model = self._fresh_model(replace(dataset, train=train), pretrained=True)
        if not model.needs:
            save_untrained(model, self.folder.checkpoints(self.stage_folder(stage)))
            return TrainedModel(model, TrainResult(0, 0.0, 0, 0.0, None))
        result = pretrain(model, dataset, self.config.pretrain, self.context(stage))
        return TrainedModel(model, result)

    def _fit_fold(self, args: FinetuneConfig) -> Fit:
        """Return the function that trains or loads the base model of a fold."""

        def fit(part: Dataset, fold: int) -> Recommender:
            stage = f"fold-{fold + 1}-of-{args.folds}"
            name = self.stage_folder(stage)
            if not self.folder.is_complete(name):
                self._train_supervised(part, stage)
            return load_model(self.folder.checkpoints(name), part).to(_device())

        return fit


def continued_training_config(
    base: PretrainConfig, args: FinetuneConfig, steps: int, eval_steps: int
) -> PretrainConfig:
    """Return the settings of the continued-training control.

    The loss is that of the base. Learning rate, batch size, averaging and selection are those of
    fine-tuning, and so are the number of steps and of steps between two evaluations. AdamW takes
    the place of Adagrad, whose learning rates are not those of fine-tuning.
    """
    return base.model_copy(
        update={
            "optim": "adamw" if base.optim == "adagrad" else base.optim,
            "momentum": 0.0,
            "learning_rate": args.learning_rate,
            "max_grad_norm": args.max_grad_norm,
            "lr_scheduler_type": args.lr_scheduler_type,
            "warmup_steps": args.warmup_steps,
            "batch_size": args.largest_batch,
            "max_steps": steps,
            "epochs": steps,
            "eval_steps": eval_steps,
            "patience": 0,
            "metric": args.metric,
            "select": "last" if args.select == "last" else "best",
            "hold_out": 0,
            "ema_decay": args.ema_decay,
            "interpolate": args.schedule().interpolate,
        }
    )


def open_run(
    config: ExperimentConfig,
    path: Path,
    *,
    resume: bool,
    make_callback: CallbackFactory,
    stored: bool = False,
) -> Run:
    """Create or reopen a run folder and prepare its data.

    Under torchrun the main process writes the folder; the others wait and then read it.

    Args:
        config: the settings.
        path: the run folder.
        resume: whether an unfinished run may be continued.
        make_callback: returns the callback of a stage.
        stored: whether the settings are those of the run itself; then its copy of the data is used
            without a look at their source.

    Raises:
        RunError: see `RunFolder.check`, `RunFolder.begin` and `run_dataset`.
        ConfigError: see `applied_settings`.
        DataError: see `run_dataset`.
    """
    if not distributed.is_main_process():
        distributed.barrier()
        resume = True
    folder = RunFolder(path)
    config = folder.with_applied(config, strict=not stored)
    resumed = folder.check(config, resume=resume)
    dataset = run_dataset(config.data, folder.dataset, resumed=resumed, check_source=not stored)
    try:
        check_trainable(config, dataset)
    except (ConfigError, DataError):
        if not resumed and distributed.is_main_process():
            shutil.rmtree(folder.dataset, ignore_errors=True)
        raise
    folder.begin(config, dataset)  # last, so that an unreadable log does not leave a run
    if distributed.is_main_process():
        distributed.barrier()
    return Run(config, folder, dataset, make_callback)


def execute(run: Run) -> dict[str, Any]:
    """Train the stages of a run and write its results; finished stages are loaded.

    Returns:
        The content of results.json.
    """
    trained = _train_stages(run)
    retrained = None
    if run.config.evaluation.retrains(run.dataset.split):
        again = run.again(trained)
        retrained = TrainedStages(again.dataset, _train_stages(again))
    return write_results(run.folder, run.config, TrainedStages(run.dataset, trained), retrained)


def _train_stages(run: Run) -> dict[StageName, TrainedModel]:
    trained: dict[StageName, TrainedModel] = {"base": run.train_base()}
    stages = planned_stages(run.config, run.dataset)
    if "tuned" in stages:
        trained["tuned"] = run.train_tuned()
        if "control" in stages:
            trained["control"] = run.train_control(*_control_budget(run, trained["tuned"].result))
    return trained


def _control_budget(run: Run, result: TrainResult) -> tuple[int, int, int]:
    """Return the steps that GRPO took, between its evaluations, and of its learning rates."""
    evaluated_steps = [
        int(row["step"])
        for row in run.folder.metrics()
        if row["stage"] == "tuned" and row["step"] > 0
    ]
    eval_steps = evaluated_steps[0] if evaluated_steps else result.steps
    return result.steps, eval_steps, result.total_steps


def save_untrained(model: Recommender, directory: Path) -> None:
    """Save a model that is not trained by steps as a finished stage."""
    save_description(directory, model)
    for name in ("best", "last"):
        path = directory / f"{name}.safetensors"
        save_tensors(path, model.state_dict(), {"finished": True}, model.ids)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
