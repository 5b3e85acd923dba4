"""The dataset of a run: a log, a prepared folder or the embedded shop, copied into the run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from recoach.data.benchmark import read_parts
from recoach.data.config import PrepareConfig
from recoach.data.dataset import Dataset, drop_last
from recoach.data.episodes import weights_of_types
from recoach.data.extend import with_catalogue
from recoach.data.item_table import read_item_table
from recoach.data.prepared import (
    MANIFEST,
    add_item_table,
    columns_fingerprint,
    describe_source,
    load_dataset,
    prepare,
    read_and_split,
    read_manifest,
    recover,
    save_dataset,
)
from recoach.data.protocol import Auto, Given, LeaveLastOut
from recoach.data.readers.folder import parquet_parts
from recoach.data.split import split_log
from recoach.data.statistics import describe
from recoach.errors import ConfigError, DataError, RunError
from recoach.experiments.config import DataConfig, ExperimentConfig
from recoach.experiments.data_notes import HELD_OUT, unknown_users
from recoach.experiments.legacy_config import upgrade_evaluation
from recoach.models.registry import MODELS, model_traits
from recoach.models.sequence.event_types import check_event_types
from recoach.simulation.purchases import PurchaseShop, add_purchases
from recoach.simulation.shop import BROWSING, Shop, shop
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.batch_builder import check_log
from recoach.training.constraints import check_constraints
from recoach.training.supervised import check_takes_weights

_UNFILTERED: dict[str, Any] = PrepareConfig(k_core=0).model_dump(mode="json")
_ORIGIN = ("source", "config", "report")
"""Entries of a manifest that a copy keeps."""


def run_dataset(
    config: DataConfig, directory: Path, *, resumed: bool = False, check_source: bool = True
) -> Dataset:
    """Return the dataset of a run and write a copy of it into the run's folder.

    The table of items becomes part of the copy.

    Args:
        config: where the log is and how it is filtered. A prepared folder, and one with train,
            valid and test files (see `read_benchmark`), are used without filters.
        directory: the run's folder for the copy.
        resumed: whether the run exists already; then its copy is used.
        check_source: whether the copy must still be that of the source, if that exists.

    Raises:
        DataError: the log cannot be read or is empty after filtering.
        RunError: the source has changed since the run was started.
    """
    source = None if config.path is None else Path(config.path)
    recover(directory)
    if resumed and directory.exists():
        dataset = load_dataset(directory)
        if check_source:
            _check_same_items(config, directory, dataset)
            _check_unchanged(config, source, directory, dataset)
        return replace(dataset, name=config.name) if config.name else dataset
    if source is None:
        log = embedded_purchases().interactions
        split = LeaveLastOut() if isinstance(config.split, Auto) else config.split
        dataset = split_log(log, split, name="shop")
        save_dataset(dataset, directory, describe(log))
    elif _is_prepared(source):
        dataset = load_dataset(source)
        if source.resolve() != directory.resolve():
            manifest = read_manifest(source)
            origin = {name: manifest[name] for name in _ORIGIN if name in manifest}
            save_dataset(dataset, directory, origin=origin)
    elif _is_split(source):
        dataset, lines = _read_parts(config, source)
        save_dataset(dataset, directory, origin={"report": {"lines": lines}})
    else:
        dataset = prepare(source, directory, _filters(config))
    if (item_table := _run_item_table(config, dataset)) is not None:
        dataset = _with_item_table(dataset, item_table, directory)
    return replace(dataset, name=config.name) if config.name else dataset


def _with_item_table(dataset: Dataset, item_table: pl.DataFrame, directory: Path) -> Dataset:
    """Return the dataset with a table of items, and write it into the copy."""
    if len(item_table) == dataset.n_items:
        add_item_table(directory, item_table)
        return replace(dataset, item_table=item_table)
    dataset = with_catalogue(dataset, item_table)
    manifest = read_manifest(directory)
    origin = {name: manifest[name] for name in _ORIGIN if name in manifest}
    save_dataset(dataset, directory, origin=origin)
    return dataset


def _check_unchanged(
    config: DataConfig, source: Path | None, directory: Path, copy: Dataset
) -> None:
    if source is None or not source.exists():
        return
    manifest = read_manifest(directory)
    if _is_prepared(source):
        current = load_dataset(source)
    elif _is_split(source):
        current = _read_parts(config, source)[0]
    elif manifest.get("source") == describe_source(source):
        return
    else:
        current = read_and_split(source, _filters(config))[0]
    if config.catalogue == "items" and copy.item_table is not None:
        current = with_catalogue(current, copy.item_table)
    stored, now = copy.fingerprint, current.fingerprint
    if stored == now and manifest.get("columns_fingerprint"):
        stored, now = str(manifest["columns_fingerprint"]), columns_fingerprint(current) or "none"
    if stored != now:
        raise RunError(
            f"{directory.parent} was made from an earlier {source.name} (fingerprint {stored}, now "
            f"{now}). Choose another --output."
        )


def _check_same_items(config: DataConfig, directory: Path, copy: Dataset) -> None:
    items = config.items
    if items is not None and Path(items).exists() and copy.item_table is not None:
        table = _run_item_table(config, copy)
        if table is not None and not table.equals(copy.item_table):
            raise RunError(
                f"{directory.parent} was made with an earlier {Path(items).name}. Choose another "
                "--output."
            )


def _is_prepared(source: Path) -> bool:
    """Return whether a folder was made by `prepare`."""
    return (source / MANIFEST).exists()


def _is_split(source: Path) -> bool:
    """Return whether a folder holds train and test files, and not the parts of one log."""
    return source.is_dir() and not parquet_parts(source)


def _read_parts(config: DataConfig, source: Path) -> tuple[Dataset, list[str]]:
    split = config.split if isinstance(config.split, Given) else None
    return read_parts(source, format=config.format, split=split)


def _filters(config: DataConfig) -> PrepareConfig:
    return PrepareConfig(**config.model_dump(exclude={"path", "name", "items", "catalogue"}))


def applied_settings(
    config: DataConfig, stored: DataConfig | None = None, *, strict: bool = True
) -> DataConfig:
    """Return the settings of the data with the filters that the data have gone through.

    The settings of a log that the run itself filters stay as they are. Those of a prepared folder
    are the recorded ones. A folder with train and test files and the embedded shop have no filters.

    Args:
        config: the settings of a run.
        stored: those of the finished run, which hold if the data are gone.
        strict: whether a given setting that the data do not have is an error, or is replaced.

    Raises:
        ConfigError: a filter is given for data to which it is not applied.
        DataError: the manifest of a prepared folder cannot be read.
    """
    source = None if config.path is None else Path(config.path)
    if source is not None and not source.exists() and stored is not None:
        given = {name: getattr(config, name) for name in config.model_fields_set}
        return stored.model_copy(update=given)
    if source is not None and not _is_prepared(source) and not _is_split(source):
        return config
    applied = _recorded_filters(source)
    if source is None or not _is_prepared(source):
        for name in _settings_in_use(config, source):
            applied.pop(name)
    if strict:
        _check_given(config, source, applied)
    typed = PrepareConfig(**applied)
    return config.model_copy(update={name: getattr(typed, name) for name in applied})


def _settings_in_use(config: DataConfig, source: Path | None) -> tuple[str, ...]:
    """Return the settings that hold for the embedded shop or for a folder with parts."""
    if source is None:
        return ("split",)
    return ("format", "split") if isinstance(config.split, Auto | Given) else ("format",)


def _recorded_filters(source: Path | None) -> dict[str, Any]:
    recorded: Any = None
    if source is not None and _is_prepared(source):
        recorded = read_manifest(source).get("config")
    try:
        recorded = upgrade_evaluation({"data": recorded})["data"]
        return PrepareConfig(**recorded).model_dump(mode="json") if recorded else dict(_UNFILTERED)
    except (TypeError, ConfigError):
        return dict(_UNFILTERED)


def _check_given(config: DataConfig, source: Path | None, applied: Mapping[str, Any]) -> None:
    given = config.model_dump(mode="json", include=config.model_fields_set & set(applied))
    for name, value in given.items():
        shown, stored = value, applied[name]
        if value == stored or (name == "split" and _is_split_of(source, value)):
            continue
        if isinstance(value, dict) and isinstance(stored, dict):
            shown, stored = _differences(value, stored)
        if source is None:
            what = "the simulated shop is used as it is. Leave the setting out, or give a log"
        elif _is_prepared(source):
            what = (
                f"{source} is a prepared folder with {name} = {stored!r}. Filters and "
                "splits belong to recoach data prepare: leave the setting out, or prepare the log "
                "again"
            )
        else:
            what = (
                f"{source} is a folder with train and test files, which are used as they are. "
                "Leave the setting out, or give a log"
            )
        raise ConfigError(f"data.{name} = {shown!r}: {what}.")


def _differences(
    value: Mapping[str, Any], stored: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings that differ between two tables; of two kinds, only the kinds."""
    names = [name for name in value if value[name] != stored.get(name)]
    if "kind" in names:
        names = ["kind"]
    return {name: value[name] for name in names}, {name: stored.get(name) for name in names}


def check_has_weights(config: ExperimentConfig, dataset: Dataset | None) -> None:
    """Raise a ConfigError if the model has no weights that could be fine-tuned.

    Without a dataset only the models of the registry are checked: others are built for it.
    """
    if dataset is None and config.model_name not in MODELS:
        return
    if not model_traits(config.model_name, config.model, dataset).has_weights:
        raise ConfigError(f"{config.model_name} has no weights that could be fine-tuned.")


def check_trainable(config: ExperimentConfig, dataset: Dataset) -> None:
    """Check that a run has something to learn, to select on and to test on.

    Sequence models and fine-tuning learn the next item of a history, which takes a user with two
    training items; other models learn from single items.

    Raises:
        ConfigError: settings of event types or columns that the log does not have, or that the
            model cannot take; fine-tuning that the model cannot take.
        DataError: no state is left to learn from, or no target for validation or test; none of
            their users is in train, and the model reads no history.
    """
    _check_event_types(config, dataset)
    needs, has_weights = model_traits(config.model_name, config.model, dataset)
    learns_steps = "states" in needs or (has_weights and config.finetune_enabled)
    train = drop_last(dataset.train, config.pretrain.hold_out)
    if config.finetune_enabled:
        _check_finetuning(config, dataset, has_weights=has_weights)
    if learns_steps and train.lengths.max(initial=0) < 2:
        held_out = int((dataset.valid.lengths + dataset.test.lengths).max(initial=0))
        number = _NUMBERS[held_out] if held_out < len(_NUMBERS) else f"{held_out:,}"
        raise DataError(
            f"{dataset.name}: after holding out {number}, no user has two items left to learn a "
            "next step from. Use a longer log or weaker filters, or hold out fewer items."
        )
    for part in HELD_OUT:
        n_unknown, n_users = unknown_users(config, dataset, part)
        if n_unknown == n_users:
            raise DataError(
                f"{dataset.name}: no user of the {part} part has training events, and "
                f"{config.model_name} knows users by these only. Use a model that reads histories, "
                "such as sasrec, or another split."
            )


def _check_event_types(config: ExperimentConfig, dataset: Dataset) -> None:
    is_ours, train = config.model_name in MODELS, dataset.train
    if config.pretrain.event_weights:
        if is_ours:
            check_takes_weights(MODELS[config.model_name].model)
        weights_of_types(train, config.pretrain.event_weights, "pretrain.event_weights")
    if is_ours and getattr(config.model, "event_embedding", False):
        check_event_types(train, "model.event_embedding = true")
    if is_ours and (weights := getattr(config.model, "event_weights", None)):
        weights_of_types(train, weights, "model.event_weights")


def _check_finetuning(config: ExperimentConfig, dataset: Dataset, *, has_weights: bool) -> None:
    """Check what would otherwise fail after the base is trained."""
    args = config.finetune
    if not has_weights:
        if args.algorithm == "grpo":  # the default: the run evaluates the base
            return
        raise ConfigError(
            f"finetune.algorithm = {args.algorithm!r}: {config.model_name} has no weights that "
            "could be fine-tuned. Take another model, or set enabled = false in [finetune]."
        )
    check_log(args, dataset)
    check_constraints(args.bounds, dataset)
    is_measured = args.bounds or "exposure" in args.reward_funcs
    if is_measured and config.evaluation.retrains(dataset.split):
        raise ConfigError(
            "finetune.constraints and the reward 'exposure' are measured on validation events, and "
            "training again on train and validation leaves none. Set evaluation.retrain = false."
        )
    rates = [rate for name, rate in config.model if "dropout" in name]
    is_dry = config.model_name in MODELS and bool(rates) and not any(rates)
    if isinstance(args, GRPOConfig) and args.estimator == "passes" and is_dry:
        raise ConfigError(
            "finetune.estimator = 'passes' (as in preset 'lares') compares passes with different "
            "dropout masks. Set model.dropout above 0, or use another estimator."
        )


_NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def _is_split_of(source: Path | None, value: object) -> bool:
    """Return whether a prepared folder has this split, which its log may have got automatically."""
    if source is None or not _is_prepared(source):
        return False
    return bool(read_manifest(source).get("split") == value)


def _run_item_table(config: DataConfig, dataset: Dataset) -> pl.DataFrame | None:
    """Return the table of items that the settings name; None if they name none.

    Raises:
        DataError: the table cannot be read.
    """
    if config.items is not None:
        all_items = config.catalogue == "items"
        return read_item_table(Path(config.items), dataset.item_ids, all_items=all_items)
    if config.path is None:
        return embedded_purchases().item_table
    return None


def embedded_shop() -> Shop:
    """Return the simulated shop whose log is used when no data is given; it is always the same."""
    return shop(seed=0, habits=BROWSING)


def embedded_purchases() -> PurchaseShop:
    """Return the embedded shop with carts, purchases and prices: the log of a run without data."""
    return add_purchases(embedded_shop())
