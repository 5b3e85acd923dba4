"""Update a run with newer events: extend its log, grow its model, train on what is new.

An update that a kill interrupts leaves an unfinished version, which the same update resumes and
another one takes the events of.
"""

import hashlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from pydantic import Field

from recoach.config import StrictConfig
from recoach.data.config import PrepareConfig
from recoach.data.dataset import Dataset, RaggedArray
from recoach.data.extend import BoolArray, RowCounts, events_not_in, extend, hold_out_newest
from recoach.data.ingest import read_log
from recoach.data.interactions import Interactions
from recoach.data.item_table import read_item_table
from recoach.data.prepared import MANIFEST, describe_source, load_dataset, recover, save_dataset
from recoach.data.targets import targets_of
from recoach.errors import ConfigError, DataError
from recoach.evaluation.evaluator import evaluate_targets
from recoach.evaluation.metrics import METRIC_NAME, cutoff
from recoach.evaluation.significance import paired_bootstrap
from recoach.experiments.config import ExperimentConfig
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.served import load_served, served_stage
from recoach.experiments.stages import CallbackFactory, MetricsLogger, save_untrained
from recoach.experiments.versions import (
    History,
    read_history,
    remove_versions,
    unfinished,
    version_folder,
    write_history,
)
from recoach.models.base import Recommender
from recoach.models.checkpoint import load_model, load_tensors
from recoach.models.growing import WithoutNewItems, grow
from recoach.models.registry import MODELS
from recoach.training.callbacks import CallbackList
from recoach.training.context import RunContext
from recoach.training.supervised import PretrainConfig, pretrain
from recoach.training.trainer import RLTrainer

Method = Literal["supervised", "finetune"]
_PLAN = "update.json"


class UpdateConfig(StrictConfig):
    """How a model is trained on new events."""

    replay: tuple[float, ...] = Field(default=(0.5,), min_length=1)
    """Share of the training states that are drawn from earlier events, below 1. Of several, the one
    that is best on validation."""
    methods: tuple[Method, ...] = ()
    """`supervised`: the model's own loss; `finetune`: the run's fine-tuning. Of several, the better
    one on validation. Empty: `supervised` for a model with a loss, else `finetune`."""
    learning_rate: float | Literal["auto"] = "auto"
    """Step size; `auto` is that of the run's pre-training or fine-tuning."""
    epochs: int = Field(default=10, gt=0)
    """Maximum number of passes over the training states."""
    patience: int = Field(default=2, ge=0)
    """Evaluations without improvement before stopping; 0 never stops."""
    valid_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the events that the served version was not trained on, the newest, on which versions
    are compared; the next update trains on them."""
    metric: str = Field(default="ndcg@10", pattern=METRIC_NAME)
    """Validation metric that selects the weights and the version."""
    keep: int = Field(default=7, ge=1)
    """Number of latest versions whose folders are kept, beside the served one and its parent."""

    def settings(self, model: Recommender) -> list[tuple[Method, float]]:
        """Return the combinations of method and replay that are tried."""
        for share in self.replay:
            if not 0 <= share < 1:
                raise ConfigError(f"update.replay must be at least 0 and below 1, not {share:g}.")
        has_weights = any(True for _ in model.parameters())
        if not has_weights:
            return []
        methods = self.methods or (("supervised",) if model.needs else ("finetune",))
        if "supervised" in methods and not model.needs:
            raise ConfigError(
                "update.methods: the model has no loss of its own for 'supervised'; use "
                "['finetune']."
            )
        return [(method, share) for method in methods for share in self.replay]


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What an update did."""

    served: int
    """The version that is served now."""
    version: int | None
    """The new version; None where there was nothing new."""
    counts: RowCounts
    outcome: Literal["better", "not better", "nothing new"]
    reason: str
    """Why the version is served or not, a sentence."""


_DEFAULT = UpdateConfig()


def update(
    run: Path | str,
    new: object,
    config: UpdateConfig = _DEFAULT,
    *,
    layout: PrepareConfig | None = None,
    items: Path | None = None,
    make_callback: CallbackFactory | None = None,
) -> UpdateResult:
    """Extend the log of a run by new events and train its served model on them.

    The new version is served if it is better on the newest events than the version that is served
    now, which cannot recommend new items; otherwise that one stays. In both cases the events are
    part of the log from now on.

    Args:
        run: the run folder.
        new: the log of the new days, a path or a frame; rows that the log has are left out.
        config: settings.
        layout: how to read the new log; None: as the run's log was read.
        items: a table of items that replaces the stored one; None keeps it.
        make_callback: returns the callback of a training by its name.

    Raises:
        BusyError: another process works in the run folder.
        RunError: the folder is no finished run.
        DataError: the new log cannot be read.
        ModelError: the model cannot grow.
    """
    folder = RunFolder(Path(run))
    run_config = folder.config()
    with folder.lock():
        stage = served_stage(folder)
        plan = _Plan(folder, run_config, config, stage)
        events = read_log(new, layout or _layout(run_config))
        work = plan.prepare(events, items)
        if work is None:
            counts = plan.counts
            history = read_history(folder)
            reason = "there is nothing new in it."
            return UpdateResult(history.served, None, counts, "nothing new", reason)
        number, counts = work
        with version_folder(folder, number).lock():
            record = _Trial(plan, number, make_callback).run(counts)
        return _commit(folder, record, counts, config.keep)


def _commit(
    folder: RunFolder, record: dict[str, Any], counts: RowCounts, keep: int
) -> UpdateResult:
    history = read_history(folder)
    number, outcome = int(record["version"]), record["outcome"]
    served = number if outcome == "better" else history.served
    write_history(folder, History(served, (*history.versions, record)))
    for earlier in unfinished(folder):  # their events are part of this version
        shutil.rmtree(version_folder(folder, earlier).path, ignore_errors=True)
    remove_versions(folder, keep)
    return UpdateResult(served, number, counts, outcome, str(record["reason"]))


class _Plan:
    """What an update starts from, and the folder that it works in."""

    def __init__(
        self, folder: RunFolder, run_config: ExperimentConfig, config: UpdateConfig, stage: str
    ) -> None:
        self.folder, self.run_config, self.config, self.stage = folder, run_config, config, stage
        self.served, (self.model,) = load_served(folder, [stage])
        self.settings = config.settings(self.model)
        self.counts = RowCounts(0, 0, 0, 0, 0, 0, 0)

    def prepare(
        self,
        events: Interactions,
        items: Path | None,
    ) -> tuple[int, RowCounts] | None:
        """Write the dataset of a new version, or find the unfinished one of the same update.

        Returns:
            The number of the version and the counts of rows; None where nothing is new.
        """
        history = read_history(self.folder)
        plan = {
            "events": _digest(events),
            "items": None if items is None else describe_source(items),
            "config": self.config.model_dump(mode="json"),
            "parent": history.served,
        }
        started = unfinished(self.folder)
        for number in started:
            recover(version_folder(self.folder, number).dataset)
        with_data = [n for n in started if self._has_data(n)]
        for number in set(started).difference(with_data):
            shutil.rmtree(version_folder(self.folder, number).path)
        if with_data:
            stored = version_folder(self.folder, with_data[-1]).read_json(_PLAN)
            if all(stored.get(key) == plan[key] for key in plan):
                return with_data[-1], RowCounts(**stored["counts"])
        latest = self._latest(history, with_data)
        extension = extend(latest, events, self.run_config.data, log_end=self._log_end())
        self.counts = extension.counts
        if not extension.counts.new and not with_data:
            return None
        number = max([0, *with_data, *(int(entry["version"]) for entry in history.versions)]) + 1
        self._write(number, extension.dataset, plan, items)
        return number, extension.counts

    def _has_data(self, number: int) -> bool:
        """Return whether an unfinished version holds the extended log."""
        version = version_folder(self.folder, number)
        return (version.dataset / MANIFEST).exists() and (version.path / _PLAN).exists()

    def _latest(self, history: History, with_data: list[int]) -> Dataset:
        """Return the dataset with all events so far, also those of versions that are not served."""
        if with_data:
            return load_dataset(version_folder(self.folder, with_data[-1]).dataset)
        if not history.versions:
            return self._with_titles(self.served)
        return version_folder(self.folder, int(history.versions[-1]["version"])).load_dataset()

    def _with_titles(self, dataset: Dataset) -> Dataset:
        """Return the dataset with the titles of a run of version 0.1 as its table of items."""
        if dataset.item_table is not None:
            return dataset
        titles = self.folder.titles(dataset)
        if titles is dataset.item_ids:
            return dataset
        table = pl.DataFrame({"item_id": dataset.item_ids, "title": titles})
        return replace(dataset, item_table=table)

    def _log_end(self) -> int | None:
        """Return the last time of the run's own log, if that was filtered."""
        data = self.run_config.data
        if not data.k_core and data.dedup == "none" and data.min_rating is None:
            return None
        dataset = self.folder.load_dataset()
        parts = (dataset.train, dataset.valid, dataset.test)
        ends = [part.columns["timestamp"].max() for part in parts if "timestamp" in part.columns]
        return max((int(str(end)) for end in ends if end is not None), default=None)

    def _write(
        self, number: int, dataset: Dataset, plan: Mapping[str, Any], items: Path | None
    ) -> None:
        if items is not None:
            dataset = replace(dataset, item_table=read_item_table(items, dataset.item_ids))
        if self.run_config.model_name not in MODELS:  # raises before anything is written
            grow(self.model, self.served, dataset)
        unlearned = events_not_in(dataset.train, self.served.train)
        held_out, _ = hold_out_newest(dataset, unlearned, self.config.valid_share)
        version = version_folder(self.folder, number)
        with version.lock():
            version.write_json(_PLAN, {**plan, "counts": asdict(self.counts)})
            save_dataset(held_out, version.dataset)


class _Trial:
    """Trains a version and compares it with the served one."""

    def __init__(self, plan: _Plan, number: int, make_callback: CallbackFactory | None) -> None:
        self.plan, self.number = plan, number
        self.config, self.run_config = plan.config, plan.run_config
        self.version = version_folder(plan.folder, number)
        self.dataset = load_dataset(self.version.dataset)
        self.unlearned = events_not_in(self.dataset.train, plan.served.train)
        self.make_callback = make_callback
        self.repeats = self.run_config.evaluation.repeats

    def run(self, counts: RowCounts) -> dict[str, Any]:
        """Train with every setting and return the record of the version."""
        began, cpu = time.monotonic(), time.process_time()
        self.version.begin(self.run_config, self.dataset)
        settings = self.plan.settings
        record: dict[str, Any] = {
            "version": self.number,
            "parent": read_history(self.plan.folder).served,
            "stage": self.plan.stage,
            "rows": asdict(counts),
            "settings_tried": max(1, len(settings)),
        }
        if not settings:
            rebuilt = grow(self.plan.model, self.plan.served, self.dataset)
            save_untrained(rebuilt, self.version.checkpoints(self.plan.stage))
        else:
            record |= self._train(settings)
        record |= self._compare()
        record["seconds"] = round(time.monotonic() - began, 1)
        record["cpu_seconds"] = round(time.process_time() - cpu, 1)
        return record

    def _train(self, settings: list[tuple[Method, float]]) -> dict[str, Any]:
        """Train with each setting, keep the best one on validation and return its description."""
        final = self.version.checkpoints(self.plan.stage)
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
        model = grow(self.plan.model, self.plan.served, self.dataset, seed=self.run_config.seed)
        model = model.to(_device())
        name = folder.name
        callbacks = [MetricsLogger(self.version, name)]
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
            args.model_copy(update=self._schedule(args.learning_rate)),
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
        metric, dataset, plan = self.config.metric, self.dataset, self.plan
        try:
            targets = targets_of(dataset, "valid", self.repeats)
        except DataError:
            return {
                "outcome": "not better",
                "reason": "the newest events have no target to compare the versions on.",
            }
        new = load_model(self.version.checkpoints(plan.stage), dataset).to(_device())
        padded = with_empty_rows(plan.served.train, dataset.n_users)
        old = grow(plan.model, plan.served, replace(dataset, train=padded)).to(_device())
        old = WithoutNewItems(old, plan.served.n_items)
        ks = sorted({10, cutoff(metric) or 10})
        evaluated = [evaluate_targets(model, dataset, targets, ks=ks) for model in (new, old)]
        values = [evaluation.metrics[metric] for evaluation in evaluated]
        means = [evaluation.means()[metric] for evaluation in evaluated]
        interval = paired_bootstrap(*values, clusters=evaluated[0].users)
        is_better = means[0] > means[1]
        reason = (
            f"{metric} {means[0]:.4f} on the newest {len(targets.users):,} states, "
            f"{means[1]:.4f} with version {read_history(plan.folder).served}"
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


def _layout(config: ExperimentConfig) -> PrepareConfig:
    return PrepareConfig(**config.data.model_dump(include=set(PrepareConfig.model_fields)))


def _digest(events: Interactions) -> str:
    """Return a hash of events, by which an interrupted update is recognised."""
    digest = hashlib.sha256(events.users.tobytes() + events.items.tobytes())
    for values in (events.user_ids, events.item_ids, *events.columns.values()):
        digest.update(values.hash(0).to_numpy().tobytes())
    return digest.hexdigest()[:16]


def _state(folder: Path) -> dict[str, Any]:
    return load_tensors(folder / "last.safetensors").state


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
