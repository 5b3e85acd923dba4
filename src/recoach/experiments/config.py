"""The configuration of a run: a TOML file with one strictly checked table per component."""

import json
import logging
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

import tomli_w
from pydantic import BaseModel, Field, ValidationError, model_validator

from recoach.config import StrictConfig, validation_message
from recoach.data.config import PrepareConfig
from recoach.data.files import read_text
from recoach.data.protocol import ByTime, Split
from recoach.data.targets import Repeats
from recoach.errors import ConfigError, DataError, clipped, suggestion
from recoach.evaluation.evaluator import KS
from recoach.experiments.legacy_config import (
    is_legacy,
    is_legacy_override,
    switch_algorithm,
    upgrade,
    upgrade_evaluation,
    upgrade_override,
)
from recoach.models.registry import model_entry
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.registry import FORMER_NAMES, algorithm_entry
from recoach.training.config import FinetuneConfig
from recoach.training.pretrain_config import PretrainConfig

Table = TypeVar("Table", bound=BaseModel)
_PRESETS: Final = {"paper": GRPOConfig.paper, "lares": GRPOConfig.lares}
"""Values of `finetune.preset` beside the default, for algorithm `grpo`."""
_LOG_SUFFIXES: Final = frozenset((".csv", ".tsv", ".parquet", ".jsonl", ".inter", ".gz", ".zst"))
_LOG = logging.getLogger(__name__)


class DataConfig(PrepareConfig):
    """Where the interaction log of a run is, how it is filtered, and what is recommended."""

    path: str | None = None
    """A log file, or a folder made by `recoach data prepare`; a relative path starts at the working
    directory. Unset: the embedded simulated shop."""
    name: str = ""
    """Name of the dataset in the results; empty: the name of the file."""
    items: str | None = None
    """A table of items: titles, which printed lists show, and whatever else a model of one's own
    reads (`Dataset.item_table`)."""
    catalogue: Literal["log", "items"] = "log"
    """Which items are recommended: those of the log, or also those that only the table of items
    has. With `items`, a model whose scores are dot products gets the vectors of items without
    training events from their content (`recoach.models.content`)."""

    @model_validator(mode="after")
    def _has_items(self) -> Self:
        if self.catalogue == "items" and self.items is None:
            raise ValueError('catalogue = "items" needs a table of items: set items = "FILE"')
        return self


class EvaluationConfig(StrictConfig):
    """How models are evaluated."""

    repeats: Repeats = "new"
    """Items of the user's history: `new` (masked in the ranking, and no targets), `all` (nothing is
    masked), `repeat` (the only targets; nothing is masked) or `recbole` (masked for models that do
    not read the history, and still targets, as in RecBole)."""
    ks: tuple[int, ...] = Field(default=KS, min_length=1)
    """The cut-offs k of the metrics, such as NDCG@k."""
    control: bool = True
    """Also continue supervised training of the base model for as many steps as fine-tuning."""
    retrain: bool | Literal["auto"] = "auto"
    """Train all models again on train and validation, for the number of steps that validation
    selected, and report the test metrics of these too; `auto` does so for a split by time whose
    validation events are the latest of train (docs/decisions/0022)."""

    def retrains(self, split: Split) -> bool:
        """Return whether models are trained again on train and validation."""
        if self.retrain == "auto":
            return isinstance(split, ByTime) and split.valid == "time"
        return self.retrain


@dataclass(frozen=True, slots=True)
class ExperimentConfig:
    """All settings that a run's numbers depend on."""

    seed: int
    """Seed of initial weights, batches, dropout and sampling."""
    finetune_enabled: bool
    """Whether fine-tuning and the continued-training control run after the base is trained."""
    data: DataConfig
    """The interaction log and its filters."""
    model_name: str
    """The model's name, a key of `recoach.models.registry.MODELS`."""
    model: BaseModel
    """The model's settings, an instance of its config class."""
    pretrain: PretrainConfig
    """Supervised training of the base model."""
    finetune: FinetuneConfig
    """Fine-tuning of the base model, an instance of its algorithm's config class."""
    evaluation: EvaluationConfig
    """Evaluation of all models of the run."""

    def tables(self) -> dict[str, Any]:
        """Return the resolved settings as nested dicts of plain values, without None values."""
        model = {"name": self.model_name} | _to_dict(self.model)
        finetune = {"enabled": self.finetune_enabled} | _to_dict(self.finetune)
        return {
            "seed": self.seed,
            "data": _to_dict(self.data),
            "model": model,
            "pretrain": _to_dict(self.pretrain),
            "finetune": finetune,
            "evaluation": _to_dict(self.evaluation),
        }

    def toml(self) -> str:
        """Return the resolved settings as TOML, from which the run can be reproduced."""
        return tomli_w.dumps(self.tables())


def read_config(
    path: Path | None, changes: Sequence[str] = (), *, stored: bool = False
) -> ExperimentConfig:
    """Read the TOML file of a run, apply overrides and fill in the defaults.

    Settings of earlier versions (`[grpo]`, `finetune = false`) are converted; a warning is logged
    for those of a user.

    Args:
        path: the file; None starts from the defaults.
        changes: overrides like `finetune.beta=0.02`, as `--set` takes them; later ones win.
        stored: whether the file was written by Recoach, such as that of a run folder.

    Raises:
        ConfigError: the file does not exist or is not TOML, a key is unknown, or a value has the
            wrong type or is out of range.
    """
    raw: dict[str, Any] = {}
    where = "the defaults"
    if path is not None:
        where = str(path)
        _check_is_no_log(Path(path))
        try:
            raw = tomllib.loads(read_text(Path(path)))
        except DataError as error:
            raise ConfigError(str(error)) from None
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    if stored:
        raw = upgrade(raw, where)
    legacy = is_legacy(raw)
    for change in changes:
        legacy = legacy or is_legacy_override(change)
        if change.startswith("finetune.") and is_legacy(raw):
            raw = upgrade(raw, where, strict=True)
        raw = _with_override(raw, change)
    if legacy:
        _LOG.warning(
            "%s: [grpo] and `finetune = true` are deprecated. Write [finetune] for [grpo], "
            "finetune.KEY for grpo.KEY, and finetune.enabled for finetune.",
            where,
        )
    return _resolve_changed(raw, where, changes)


def _check_is_no_log(path: Path) -> None:
    """Raise ConfigError for a file that is there and has the name of a log."""
    if path.is_file() and _LOG_SUFFIXES.intersection(map(str.lower, path.suffixes)):
        raise ConfigError(
            f"{path}: this is a log, not a configuration in TOML. Try it with `recoach demo --data "
            f"{path}`, or train a model on it with `recoach pretrain {path} --output runs/base`."
        )


def override(key: str, value: object) -> str:
    """Return a setting with its dotted key, such as `finetune.beta`, as `read_config` takes it."""
    table, dot, name = key.rpartition(".")
    return table + dot + tomli_w.dumps({name: value}).strip().replace(" = ", "=", 1)


def _resolve_changed(
    raw: Mapping[str, Any], where: str, changes: Sequence[str]
) -> ExperimentConfig:
    """Resolve settings as `resolve` does, with errors that name the override they are about."""
    try:
        return resolve(upgrade(raw, where, strict=True), where)
    except ConfigError as error:
        raise ConfigError(_name_override(str(error), where, changes)) from error


def _name_override(message: str, where: str, changes: Sequence[str]) -> str:
    """Return a message about settings that names the override it is about."""
    text = message.removeprefix(f"{where}: ")
    for change in reversed(changes):
        key = change.partition("=")[0].strip()
        table, _, name = key.partition(".")
        is_key = text.startswith((f"{key}:", f"{key}."))
        is_name = text.startswith(table) and re.search(rf"\b{re.escape(name)}\b", text)
        if is_key or is_name:
            return f"--set {clipped(change, 100)}: {text}"
    return f"{where} with --set: {text}" if changes else message


def resolve(raw: Mapping[str, Any], where: str) -> ExperimentConfig:
    """Validate nested plain values table by table and fill in the defaults.

    Args:
        raw: the parsed TOML or a stored record, also of an earlier version;
            `finetune.preset = "paper"` takes the paper's settings as the defaults of the table,
            `"lares"` those of LARES.
        where: the source of the values, named in error messages.

    Raises:
        ConfigError: a key is unknown or a value invalid; the message names the table and the key
            and suggests the closest valid key.
    """
    raw = upgrade_evaluation(upgrade(raw, where))
    tables = {"seed", "data", "model", "pretrain", "finetune", "evaluation"}
    for key in raw:
        if key not in tables:
            raise ConfigError(
                f"{where}: there is no table or setting {key!r}. {suggestion(key, tables)}"
            )
    seed = raw.get("seed", 2020)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ConfigError(f"{where}: seed must be an integer of at least 0, not {seed!r}.")
    finetune = _table(raw, "finetune", where)
    enabled = finetune.pop("enabled", True)
    if not isinstance(enabled, bool):
        raise ConfigError(f"{where}: finetune.enabled must be true or false, not {enabled!r}.")
    model = _table(raw, "model", where)
    name = model.pop("name", "sasrec")
    if not isinstance(name, str):
        raise ConfigError(f"{where}: model.name must be a text, not {name!r}.")
    evaluation = _validate(
        EvaluationConfig, _table(raw, "evaluation", where), f"{where}: evaluation"
    )
    return ExperimentConfig(
        seed=seed,
        finetune_enabled=enabled,
        data=_validate(DataConfig, _table(raw, "data", where), f"{where}: data"),
        model_name=name,
        model=_validate(model_entry(name).config, model, f"{where}: model"),
        pretrain=_validate(PretrainConfig, _table(raw, "pretrain", where), f"{where}: pretrain"),
        finetune=_finetune_config(finetune, evaluation, where),
        evaluation=evaluation,
    )


def _finetune_config(
    values: dict[str, Any], evaluation: EvaluationConfig, where: str
) -> FinetuneConfig:
    name = str(values.get("algorithm", "grpo"))
    if name in FORMER_NAMES:
        _LOG.warning("%s: algorithm %r is now called %r.", where, name, FORMER_NAMES[name])
        name = values["algorithm"] = FORMER_NAMES[name]
    try:
        kind = algorithm_entry(name).config
    except ConfigError as error:
        raise ConfigError(f"{where}: finetune.algorithm: {error}") from error
    preset = values.pop("preset", "default")
    presets = ("default", *_PRESETS) if kind is GRPOConfig else ("default",)
    if preset not in presets:
        allowed = " or ".join(map(repr, presets))
        raise ConfigError(
            f"{where}: finetune.preset must be {allowed} with algorithm {name!r}, not {preset!r}."
        )
    if preset in _PRESETS:
        values = _PRESETS[preset]().model_dump() | values
    config = _validate(kind, values, f"{where}: finetune")
    if len(config.reward_weights) not in (0, len(config.reward_funcs)):
        raise ConfigError(
            f"{where}: finetune.reward_weights has {len(config.reward_weights)} numbers for "
            f"{len(config.reward_funcs)} reward_funcs; give one for each, or none."
        )
    # With the masking of RecBole, "auto" depends on the model and is resolved by the trainer.
    if config.mask_seen == "auto" and evaluation.repeats != "recbole":
        return config.model_copy(update={"mask_seen": evaluation.repeats == "new"})
    return config


def toml_value(text: str) -> object:
    """Parse text as a TOML value; text that is not valid TOML, such as a bare word, is a string."""
    try:
        value: object = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return value


def _table(raw: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    table = raw.get(name, {})
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: {name} must be a table of settings ([{name}]), not {table!r}.")
    return dict(table)


def _validate(config: type[Table], values: Mapping[str, Any], where: str) -> Table:
    try:
        # Validated as JSON: "5" is not accepted as a number nor true as 1, but a list is
        # accepted as a tuple.
        return config.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(validation_message(error, config, values, where)) from error


def _with_override(raw: dict[str, Any], change: str) -> dict[str, Any]:
    key, equals, text = upgrade_override(change, raw).partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(f"--set takes TABLE.KEY=VALUE, like finetune.beta=0.02, not {change!r}.")
    result = dict(raw)
    table = result
    for part in path[:-1]:
        nested = table.get(part, {})
        if part == "split" and isinstance(nested, str):
            nested = {"kind": nested}
        if not isinstance(nested, Mapping):
            raise ConfigError(f"--set {change}: {part!r} is a value, not a table.")
        table[part] = dict(nested)
        table = table[part]
    if path == ["finetune", "algorithm"]:
        result["finetune"] = switch_algorithm(table, str(toml_value(text)))
    else:
        table[path[-1]] = toml_value(text)
    return result


def _to_dict(config: BaseModel) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_none=True)
