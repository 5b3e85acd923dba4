"""The training of a version of a run, and its comparison with the served one."""

import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recoach.data.dataset import Dataset, RaggedArray
from recoach.data.extend import BoolArray, events_not_in
from recoach.data.prepared import load_dataset
from recoach.data.row_counts import RowCounts
from recoach.data.targets import NoTargetsError, targets_of
from recoach.errors import ConfigError, DataError
from recoach.evaluation.evaluator import evaluate_targets
from recoach.evaluation.metrics import cutoff
from recoach.evaluation.significance import paired_bootstrap
from recoach.experiments.config import ExperimentConfig
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.stages import CallbackFactory, MetricsLogger, save_untrained
from recoach.experiments.update_config import Method, UpdateConfig
from recoach.experiments.versions import read_history, version_folder
from recoach.models.base import Recommender
from recoach.models.checkpoint import load_model, load_tensors
from recoach.models.content import place_cold_items
from recoach.models.growing import WithoutNewItems, grow
from recoach.training.callbacks import Callback, CallbackList
from recoach.training.context import RunContext
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.trainer import RLTrainer


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """The run and the version that is served, from which an update starts."""

    folder: RunFolder
    """Of the run."""
    run_config: ExperimentConfig
    config: UpdateConfig
    stage: str
    dataset: Dataset
    model: Recommender


class VersionTraining:
    """Trains a version and compares it with the served one."""

    def __init__(
        self, served: ServedVersion, number: int, make_callback: CallbackFactory | None
    ) -> None:
        self.served, self.number = served, number
        self.config, self.run_config = served.config, served.run_config
        self.version = version_folder(served.folder, number)
        self.dataset = load_dataset(self.version.dataset)
        self.unlearned = events_not_in(self.dataset.train, served.dataset.train)
        self.make_callback = make_callback
        self.repeats = self.run_config.evaluation.repeats

    def run(self, counts: RowCounts) -> dict[str, Any]:
        """Train with every setting and return the record of the version."""
        began, cpu = time.monotonic(), time.process_time()
        settings = self.config.settings(self.served.model)
        if settings:
            self._check_targets()
        self.version.begin(self.run_config, self.dataset)
        record: dict[str, Any] = {
            "version": self.number,
            "parent": read_history(self.served.folder).served,
            "stage": self.served.stage,
            "rows": asdict(counts),
            "settings_tried": max(1, len(settings)),
        }
        if not settings:
            rebuilt = grow(self.served.model, self.served.dataset, self.dataset)
            save_untrained(rebuilt, self.version.checkpoints(self.served.stage))
        else:
            record |= self._train(settings)
        record |= self._compare()
        record["seconds"] = round(time.monotonic() - began, 1)
        record["cpu_seconds"] = round(time.process_time() - cpu, 1)
        return record

    def _check_targets(self) -> None:
        """Raise a DataError where training could not choose its best step on the newest events."""
        try:
            targets_of(self.dataset, "valid", self.repeats)
        except NoTargetsError as error:
            remedy = "Wait until there are more events and give all new ones in one file"
            if self.repeats == "new":
                remedy += (
                    ". Where users take the same items again and this is to be recommended, train "
                    "the run with evaluation.repeats = 'all'"
                )
            raise DataError(
                f"The newest of the new events hold nothing to compare models on{error.reasons}, "
                f"so that the run stays as it was. {remedy}."
            ) from error

    def _train(self, settings: list[tuple[Method, float]]) -> dict[str, Any]:
        """Train with each setting, keep the best one on validation and return its description."""
        final = self.version.checkpoints(self.served.stage)
        folders = [self.version.checkpoints(f"setting-{n + 1}") for n in range(len(settings))]
        if not final.exists():
            for setting, folder in zip(settings, folders, strict=True):
                self._train_with(*setting, folder)
            values = [_state(folder)["best_value"] for folder in folders]
            best = int(np.argmax(values))
            self.version.write_json("chosen.json", {"setting": best})
            folders[best].rename(final)
        best = int(self.version.read_json("chosen.json")["setting"])
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        state = _state(final)
        return {
            "method": settings[best][0],
            "replay": settings[best][1],
            "steps": state["step"],
            "best_step": state["best_step"],
        }

    def _train_with(self, method: Method, replay: float, folder: Path) -> None:
        """Train the grown model with one setting, from its last checkpoint if there is one."""
        model = grow(
            self.served.model, self.served.dataset, self.dataset, seed=self.run_config.seed
        )
        model = model.to(_device())
        name = folder.name
        callbacks: list[Callback] = [MetricsLogger(self.version, name)]
        callbacks += [self.make_callback(name)] if self.make_callback else []
        context = RunContext(
            seed=self.run_config.seed + self.number,
            repeats=self.repeats,
            folder=folder,
            callback=CallbackList(callbacks),
            resume=True,
            progress=False,
            targets=self._targets(replay),
        )
        if method == "supervised":
            pretrain(model, self.dataset, self._supervised(), context, start_is_candidate=True)
            return
        args = self.run_config.finetune
        if "cross_fitted" in args.reward_funcs:
            raise ConfigError(
                "update.methods: the run's reward 'cross_fitted' trains base models on all data; "
                "use 'supervised'."
            )
        RLTrainer(
            model,
            None,
            args.model_copy(update={"start": "base", **self._schedule(args.learning_rate)}),
            train_dataset=self.dataset,
            context=context,
        ).train()

    def _targets(self, replay: float) -> BoolArray:
        """Return bool[m], the events of train to learn: the new ones and a sample of the others."""
        new = self.unlearned
        others = np.flatnonzero(~new)
        count = min(len(others), round(int(new.sum()) * replay / (1 - replay)))
        generator = np.random.default_rng([self.run_config.seed, self.number])
        targets = new.copy()
        targets[generator.choice(others, count, replace=False)] = True
        return targets

    def _schedule(self, learning_rate: float) -> dict[str, Any]:
        config = self.config
        return {
            "learning_rate": learning_rate
            if config.learning_rate == "auto"
            else config.learning_rate,
            "epochs": config.epochs,
            "patience": config.patience,
            "metric": config.metric,
            "max_steps": 0,
            "eval_steps": 0,
            "select": "best",
            "interpolate": True,
        }

    def _supervised(self) -> PretrainConfig:
        pretrain_config = self.run_config.pretrain
        schedule = self._schedule(pretrain_config.learning_rate)
        return pretrain_config.model_copy(update={**schedule, "hold_out": 0, "shard_items": False})

    def _compare(self) -> dict[str, Any]:
        """Return the values of the served and the new version on the newest events."""
        metric, dataset, served = self.config.metric, self.dataset, self.served
        try:
            targets = targets_of(dataset, "valid", self.repeats)
        except DataError:
            return {
                "outcome": "not better",
                "reason": "the newest events have no target to compare the versions on.",
            }
        new = load_model(self.version.checkpoints(served.stage), dataset).to(_device())
        if self.run_config.data.catalogue == "items":
            place_cold_items(new, dataset)
        padded = with_empty_rows(served.dataset.train, dataset.n_users)
        old = grow(served.model, served.dataset, replace(dataset, train=padded)).to(_device())
        old = WithoutNewItems(old, served.dataset.n_items)
        ks = sorted({10, cutoff(metric) or 10})
        evaluated = [evaluate_targets(model, dataset, targets, ks=ks) for model in (new, old)]
        values = [evaluation.metrics[metric] for evaluation in evaluated]
        means = [evaluation.means()[metric] for evaluation in evaluated]
        interval = paired_bootstrap(*values, clusters=evaluated[0].users)
        is_better = means[0] > means[1]
        reason = (
            f"{metric} {means[0]:.4f} on the newest {len(targets.users):,} states, "
            f"{means[1]:.4f} with version {read_history(served.folder).served}"
        )
        return {
            "outcome": "better" if is_better else "not better",
            "reason": f"{reason}; difference in [{interval.low:+.4f}, {interval.high:+.4f}].",
            "metric": metric,
            "states": len(targets.users),
            "value": round(means[0], 6),
            "served_value": round(means[1], 6),
        }


def with_empty_rows(rows: RaggedArray, n_rows: int) -> RaggedArray:
    """Return the rows followed by empty ones."""
    added = np.full(n_rows - len(rows), rows.offsets[-1])
    return replace(rows, offsets=np.concatenate([rows.offsets, added]))


def _state(folder: Path) -> dict[str, Any]:
    return load_tensors(folder / "last.safetensors").state


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
