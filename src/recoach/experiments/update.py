"""Update a run with newer events: extend its log, grow its model, train on what is new.

An update that a kill interrupts leaves an unfinished version, which the same update resumes and
another one takes the events of. An update that is refused leaves nothing.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from recoach.data.config import PrepareConfig
from recoach.data.dataset import Dataset
from recoach.data.extend import events_not_in, extend, hold_out_newest, with_catalogue
from recoach.data.ingest import read_log
from recoach.data.interactions import Interactions
from recoach.data.item_table import read_item_table
from recoach.data.prepared import MANIFEST, describe_source, load_dataset, recover, save_dataset
from recoach.data.row_counts import RowCounts
from recoach.errors import BusyError, RecoachError
from recoach.experiments.config import ExperimentConfig
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.served import load_served, served_stage
from recoach.experiments.stages import CallbackFactory
from recoach.experiments.update_config import UpdateConfig
from recoach.experiments.update_training import ServedVersion, VersionTraining
from recoach.experiments.versions import (
    History,
    read_history,
    remove_versions,
    unfinished,
    version_folder,
    write_history,
)
from recoach.models.growing import grow
from recoach.models.registry import MODELS

_PLAN = "update.json"


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
        DataError: the new log cannot be read, has not a column that the log has and that is needed,
            or holds nothing to compare the trained versions on. The run stays as it was.
        ModelError: the model cannot grow.
    """
    folder = RunFolder(Path(run))
    run_config = folder.config()
    with folder.lock():
        stage = served_stage(folder)
        dataset, (model,) = load_served(folder, [stage])
        served = ServedVersion(folder, run_config, config, stage, dataset, model)
        config.settings(model)  # raises for settings that do not fit the model
        events = read_log(new, layout or _layout(run_config), required=tuple(dataset.train.columns))
        number, counts = _Plan(served).prepare(events, items)
        if number is None:
            reason = "there is nothing new in it."
            current = read_history(folder).served
            return UpdateResult(current, None, counts, "nothing new", reason)
        record = _train(served, number, counts, make_callback)
        return _commit(folder, record, counts, config.keep)


def _train(
    served: ServedVersion, number: int, counts: RowCounts, make_callback: CallbackFactory | None
) -> dict[str, Any]:
    """Train a version and return its record; a version that is refused is removed.

    An interruption is no refusal: the version stays, and the same update resumes it.
    """
    version = version_folder(served.folder, number)
    try:
        with version.lock():
            return VersionTraining(served, number, make_callback).run(counts)
    except BusyError:
        raise
    except RecoachError:
        # Otherwise the next update would take the events of this one without counting them.
        shutil.rmtree(version.path)
        raise


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

    def __init__(self, served: ServedVersion) -> None:
        self.served, self.folder = served, served.folder
        self.data = served.run_config.data

    def prepare(
        self,
        events: Interactions,
        items: Path | None,
    ) -> tuple[int | None, RowCounts]:
        """Write the dataset of a new version, or find the unfinished one of the same update.

        Returns:
            The number of the version, None where nothing is new, and the counts of rows.
        """
        history = read_history(self.folder)
        plan = {
            "events": _digest(events),
            "items": None if items is None else describe_source(items),
            "config": self.served.config.model_dump(mode="json"),
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
        extension = extend(latest, events, self.data, log_end=self._log_end())
        if not extension.counts.new and not with_data:
            return None, extension.counts
        number = max([0, *with_data, *(int(entry["version"]) for entry in history.versions)]) + 1
        plan["counts"] = asdict(extension.counts)
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
            return self._with_titles(self.served.dataset)
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
        data = self.data
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
            all_items = self.data.catalogue == "items"
            table = read_item_table(items, dataset.item_ids, all_items=all_items)
            dataset = with_catalogue(dataset, table)
        if self.served.run_config.model_name not in MODELS:  # raises before anything is written
            grow(self.served.model, self.served.dataset, dataset)
        unlearned = events_not_in(dataset.train, self.served.dataset.train)
        held_out, _ = hold_out_newest(dataset, unlearned, self.served.config.valid_share)
        version = version_folder(self.folder, number)
        with version.lock():
            version.write_json(_PLAN, plan)
            save_dataset(held_out, version.dataset)


def _layout(config: ExperimentConfig) -> PrepareConfig:
    return PrepareConfig(**config.data.model_dump(include=set(PrepareConfig.model_fields)))


def _digest(events: Interactions) -> str:
    """Return a hash of events, by which an interrupted update is recognised."""
    digest = hashlib.sha256(events.users.tobytes() + events.items.tobytes())
    for values in (events.user_ids, events.item_ids, *events.columns.values()):
        digest.update(values.hash(0).to_numpy().tobytes())
    return digest.hexdigest()[:16]
