"""The stages of a run: base, tuned, control; each resumes where it was left."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recoach import distributed
from recoach.data.split import Dataset, drop_last
from recoach.experiments.config import ExperimentConfig
from recoach.experiments.data import run_dataset, run_titles
from recoach.experiments.results import StageName, TrainedModel, write_results
from recoach.experiments.run_folder import RunFolder
from recoach.models.base import Recommender
from recoach.models.checkpoint import load_model, save_description, save_tensors
from recoach.models.registry import build_from_config, model_entry
from recoach.training.callbacks import Callback, CallbackList, TrainResult
from recoach.training.config import GRPOConfig
from recoach.training.crossfit import CrossFitted, Fit
from recoach.training.loop import RunContext
from recoach.training.supervised import PretrainConfig, pretrain
from recoach.training.trainer import GRPOTrainer

CallbackFactory = Callable[[str], Callback]
"""Gives the callback that shows the progress of a stage or of a fold's base."""


def planned_stages(config: ExperimentConfig) -> tuple[StageName, ...]:
    """Return the stages a run consists of."""
    if not config.finetune or not model_entry(config.model_name).model.needs:
        return ("base",)
    return ("base", "tuned", "control") if config.evaluation.control else ("base", "tuned")


class MetricsLogger(Callback):
    """Writes evaluations to the run's metrics.jsonl."""

    def __init__(self, folder: RunFolder, stage: str) -> None:
        self._folder, self._stage = folder, stage

    def on_row(self, row: dict[str, float]) -> None:
        """Write a line."""
        self._folder.append_metrics(self._stage, row)


@dataclass(frozen=True, slots=True)
class Run:
    """A run on its way: settings, folder, data."""

    config: ExperimentConfig
    folder: RunFolder
    dataset: Dataset
    make_callback: CallbackFactory

    def context(self, stage: str) -> RunContext:
        """Return where a stage trains; it always goes on from its own last checkpoint."""
        return RunContext(
            seed=self.config.seed,
            mask_seen=self.config.evaluation.mask_seen,
            folder=self.folder.checkpoints(stage),
            callback=CallbackList([MetricsLogger(self.folder, stage), self.make_callback(stage)]),
            resume=True,
        )

    def base(self) -> TrainedModel:
        """Train the base by its own loss."""
        trained = self._base_of(self.dataset, "base")
        if not trained.model.needs:
            _save_untrained(trained.model, self.folder.checkpoints("base"))
        return trained

    def tuned(self) -> TrainedModel:
        """Fine-tune the base with GRPO."""
        model = self.load_base()
        return TrainedModel(model, self.finetune(model, self.config.grpo, self.context("tuned")))

    def finetune(self, model: Recommender, args: GRPOConfig, context: RunContext) -> TrainResult:
        """Move a model with GRPO; the bases that a cross-fitted reward asks are trained before."""
        functions = [
            CrossFitted(self.dataset, self._base_of_fold(args), args, context.mask_seen)
            if name == "cross_fitted"
            else name
            for name in args.reward_funcs
        ]
        trainer = GRPOTrainer(model, functions, args, train_dataset=self.dataset, context=context)
        if not self.folder.is_complete("tuned"):
            for function in functions:
                if isinstance(function, CrossFitted):
                    function.weights()
        return trainer.train()

    def control(self, steps: int, eval_steps: int) -> TrainedModel:
        """Train the base on by its own loss: as many steps, as large, as often looked at."""
        model = self.load_base()
        budget = continued_training_config(
            self.config.pretrain, self.config.grpo, steps, eval_steps
        )
        context = self.context("control")
        outcome = pretrain(model, self.dataset, budget, context, start_is_candidate=True)
        return TrainedModel(model, outcome)

    def load_base(self) -> Recommender:
        """Return the trained base as all later stages take it: on all of the training data."""
        return load_model(self.folder.checkpoints("base"), self.dataset).to(_device())

    def _base_of(self, dataset: Dataset, stage: str) -> TrainedModel:
        """Train a base by its own loss on a dataset."""
        train = drop_last(dataset.train, self.config.pretrain.hold_out)
        entry, seed = model_entry(self.config.model_name), self.config.seed
        new = build_from_config(entry, self.config.model, train, dataset.n_items, seed=seed)
        model = new.to(_device())
        return TrainedModel(
            model, pretrain(model, dataset, self.config.pretrain, self.context(stage))
        )

    def _base_of_fold(self, args: GRPOConfig) -> Fit:
        def fit(part: Dataset, fold: int) -> Recommender:
            stage = f"fold-{fold + 1}-of-{args.folds}"
            if not self.folder.is_complete(stage):
                self._base_of(part, stage)
            return load_model(self.folder.checkpoints(stage), part).to(_device())

        return fit


def continued_training_config(
    base: PretrainConfig, grpo: GRPOConfig, steps: int, eval_steps: int
) -> PretrainConfig:
    """Return the settings of the supervised control: GRPO's budget and its way to choose."""
    return base.model_copy(
        update={
            "learning_rate": grpo.learning_rate,
            "batch_size": grpo.largest_batch,
            "max_steps": steps,
            "epochs": steps,
            "eval_steps": eval_steps,
            "patience": 0,
            "metric": grpo.metric,
            "select": "last" if grpo.select == "last" else "best",
            "hold_out": 0,
            "ema_decay": grpo.ema_decay,
            "interpolate": grpo.schedule().interpolate,
        }
    )


def open_run(
    config: ExperimentConfig, path: Path, *, resume: bool, make_callback: CallbackFactory
) -> Run:
    """Create or reopen a run folder and prepare its data.

    Of several processes the first does so, and the others open what it has made.
    """
    run = (
        _opened(config, path, resume=resume, make_callback=make_callback)
        if distributed.is_main_process()
        else None
    )
    distributed.barrier()
    return run or _opened(config, path, resume=True, make_callback=make_callback)


def _opened(
    config: ExperimentConfig, path: Path, *, resume: bool, make_callback: CallbackFactory
) -> Run:
    folder = RunFolder(path)
    begun = folder.check(config, resume=resume)
    dataset = run_dataset(config.data, folder.dataset, begun=begun)
    if not begun and (titles := run_titles(config.data, dataset)) is not None:
        folder.write_titles(titles)
    folder.begin(config, dataset)  # only now: a log that cannot be used leaves nothing behind
    return Run(config, folder, dataset, make_callback)


def execute(run: Run) -> dict[str, Any]:
    """Go through the run's stages and write the results; finished ones are only loaded.

    Returns:
        The content of results.json.
    """
    trained: dict[StageName, TrainedModel] = {"base": run.base()}
    stages = planned_stages(run.config)
    if "tuned" in stages:
        trained["tuned"] = run.tuned()
        if "control" in stages:
            trained["control"] = run.control(*_budget(run, trained["tuned"].outcome))
    return write_results(run.folder, run.config, run.dataset, trained)


def _budget(run: Run, outcome: TrainResult) -> tuple[int, int]:
    """Return the steps GRPO took and the steps between its evaluations."""
    looks = [
        int(row["step"])
        for row in run.folder.metrics()
        if row["stage"] == "tuned" and row["step"] > 0
    ]
    return outcome.steps, looks[0] if looks else outcome.steps


def _save_untrained(model: Recommender, directory: Path) -> None:
    save_description(directory, model)
    for name in ("best", "last"):
        save_tensors(directory / f"{name}.safetensors", model.state_dict(), {"finished": True})


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
