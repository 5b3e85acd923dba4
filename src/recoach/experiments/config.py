"""One run as a TOML file: strict tables, one for each component."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from recoach.data.prepared import PrepareConfig
from recoach.errors import ConfigError, suggestion
from recoach.evaluation.evaluator import KS, MaskSeen
from recoach.models.registry import model_entry
from recoach.training.config import GRPOConfig
from recoach.training.supervised import PretrainConfig

Table = TypeVar("Table", bound=BaseModel)


class DataConfig(PrepareConfig):
    """The log of a run and how it is prepared."""

    path: str | None = None
    """A log, or a folder made by `recoach data prepare`, relative to where the command is given;
    without it, the embedded simulated shop."""
    name: str = ""
    """What results call the data; the file's name where empty."""
    items: str | None = None
    """A table of items with their titles, for lists that people read."""


class EvaluationConfig(BaseModel):
    """How models are judged."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mask_seen: MaskSeen = "all"
    """Mask what a user has taken: `all`, `recbole` (only models that read no history), `none`."""
    ks: tuple[int, ...] = Field(KS, min_length=1)
    """List lengths."""
    control: bool = True
    """Also train the base for as many steps of its own loss as GRPO took."""


@dataclass(frozen=True, slots=True)
class ExperimentConfig:
    """Everything that decides a run's numbers."""

    seed: int
    """Of initial weights, batches, dropout and draws."""
    finetune: bool
    """Whether GRPO and its control follow the base."""
    data: DataConfig
    """The log and its filters."""
    model_name: str
    """A key of `MODELS`."""
    model: BaseModel
    """The model's own settings."""
    pretrain: PretrainConfig
    """How the base is trained."""
    grpo: GRPOConfig
    """How it is fine-tuned."""
    evaluation: EvaluationConfig
    """How all are judged."""

    def tables(self) -> dict[str, Any]:
        """Return the resolved settings as nested plain values, without those that are None."""
        model = {"name": self.model_name} | _plain(self.model)
        return {
            "seed": self.seed,
            "finetune": self.finetune,
            "data": _plain(self.data),
            "model": model,
            "pretrain": _plain(self.pretrain),
            "grpo": _plain(self.grpo),
            "evaluation": _plain(self.evaluation),
        }

    def toml(self) -> str:
        """Return the resolved settings as TOML, from which the run can be repeated."""
        return tomli_w.dumps(self.tables())


def read_config(path: Path | None, changes: Sequence[str] = ()) -> ExperimentConfig:
    """Read a run's TOML and apply changes like `grpo.beta=0.02`; no file means all defaults.

    Raises:
        ConfigError: no such file, no TOML, an unknown key, a wrong type or a value out of range.
    """
    raw: dict[str, Any] = {}
    where = "the defaults"
    if path is not None:
        where = str(path)
        try:
            raw = tomllib.loads(Path(path).read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"Cannot read {path}: {error}.") from error
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise ConfigError(f"{path} is not TOML: {error}.") from error
    for change in changes:
        raw, where = _changed(raw, change), f"{where} with --set {change}"
    return resolve(raw, where)


def resolve(raw: Mapping[str, Any], where: str) -> ExperimentConfig:
    """Check nested plain values table by table and fill in the defaults.

    Args:
        raw: as a TOML file holds them; `grpo.preset = "paper"` starts from the paper's setting.
        where: named in errors.

    Raises:
        ConfigError: names the table, the key and the nearest right one.
    """
    known = {"seed", "finetune", "data", "model", "pretrain", "grpo", "evaluation"}
    for key in raw:
        if key not in known:
            raise ConfigError(
                f"{where}: no table or setting called {key!r}; {suggestion(key, known)}"
            )
    seed = raw.get("seed", 2020)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ConfigError(f"{where}: seed must be a whole number of at least 0, not {seed!r}.")
    finetune = raw.get("finetune", True)
    if not isinstance(finetune, bool):
        raise ConfigError(f"{where}: finetune is true or false, not {finetune!r}.")
    model = _table(raw, "model", where)
    name = str(model.pop("name", "sasrec"))
    judged = _checked(EvaluationConfig, _table(raw, "evaluation", where), f"{where}: evaluation")
    return ExperimentConfig(
        seed=seed,
        finetune=finetune,
        data=_checked(DataConfig, _table(raw, "data", where), f"{where}: data"),
        model_name=name,
        model=_checked(model_entry(name).config, model, f"{where}: model"),
        pretrain=_checked(PretrainConfig, _table(raw, "pretrain", where), f"{where}: pretrain"),
        grpo=_tuning(_table(raw, "grpo", where), judged, where),
        evaluation=judged,
    )


def _tuning(grpo: dict[str, Any], judged: EvaluationConfig, where: str) -> GRPOConfig:
    preset = grpo.pop("preset", "default")
    if preset not in ("default", "paper"):
        raise ConfigError(f"{where}: grpo.preset is 'default' or 'paper', not {preset!r}.")
    if preset == "paper":
        grpo = GRPOConfig.paper().model_dump() | grpo
    tuning = _checked(GRPOConfig, grpo, f"{where}: grpo")
    if len(tuning.reward_weights) not in (0, len(tuning.reward_funcs)):
        raise ConfigError(
            f"{where}: grpo.reward_weights has {len(tuning.reward_weights)} numbers for "
            f"{len(tuning.reward_funcs)} reward_funcs; give one for each, or none."
        )
    if tuning.mask_seen == "auto" and judged.mask_seen != "recbole":  # that is up to the model
        return tuning.model_copy(update={"mask_seen": judged.mask_seen == "all"})
    return tuning


def toml_value(text: str) -> object:
    """Return what a text is as a value of TOML; a bare word is a string."""
    try:
        value: object = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return value


def _table(raw: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    table = raw.get(name, {})
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: {name} is a table of settings ([{name}]), not {table!r}.")
    return dict(table)


def _checked(config: type[Table], values: Mapping[str, Any], where: str) -> Table:
    try:
        # Strict as JSON is: "5" is no number and true is no 1, but a list serves as a tuple.
        return config.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        problem, *more = error.errors()
        key = _key(problem, values)
        if problem["type"] == "extra_forbidden":
            near = suggestion(key, config.model_fields)
            raise ConfigError(f"{where}: no setting called {key!r}; {near}") from error
        reason = problem["msg"].removeprefix("Value error, ")
        for other in more:  # a number or a word: one of them would do
            if _key(other, values) == key:
                reason += f", or {other['msg'].removeprefix('Input should be ')}"
        given = f" (given: {problem['input']!r})" if key else ""
        raise ConfigError(f"{where}{'.' + key if key else ''}: {reason}{given}.") from error


def _key(problem: ErrorDetails, values: Mapping[str, Any]) -> str:
    """Return the name of a refused setting; pydantic appends the kinds that it may be of."""
    first, *rest = problem["loc"] or ("",)
    path = [str(first)]
    here: Any = values.get(path[0])
    for part in rest:
        index = isinstance(here, list) and isinstance(part, int)
        if not index and not (isinstance(here, Mapping) and part in here):
            break
        here = here[part]
        path.append(str(part))
    return ".".join(path)


def _changed(raw: dict[str, Any], change: str) -> dict[str, Any]:
    key, sign, text = change.partition("=")
    path = key.strip().split(".")
    if not sign or not all(path):
        raise ConfigError(f"--set takes TABLE.KEY=VALUE, like grpo.beta=0.02, not {change!r}.")
    result = dict(raw)
    table = result
    for part in path[:-1]:
        inner = table.get(part, {})
        if not isinstance(inner, Mapping):
            raise ConfigError(f"--set {change}: {part!r} is a value, not a table.")
        table[part] = dict(inner)
        table = table[part]
    table[path[-1]] = toml_value(text)
    return result


def _plain(config: BaseModel) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_none=True)
