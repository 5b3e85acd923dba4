"""The space of a hyperparameter search: ranges and choices for settings of `finetune`."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import ValidationError

from recoach.errors import ConfigError
from recoach.experiments.config import resolve, toml_value
from recoach.policy.reward_funcs import DISCOUNTED, ITEM_REWARDS
from recoach.training.algorithms.regulariser import RegularisedConfig
from recoach.training.config import FinetuneConfig

_LOG = logging.getLogger(__name__)
Space = dict[str, BaseDistribution]
"""Maps a setting to its Optuna distribution; categorical choices are JSON texts."""

_FIXED: Final = {
    "algorithm": "trials are of one algorithm; search each by itself",
    "enabled": "a trial is a fine-tuning",
    "metric": "trials are compared by it",
    "preset": "it sets many settings; vary those instead",
}


def read_space(args: FinetuneConfig, vary: Sequence[str]) -> Space:
    """Parse texts like `finetune.epsilon=0.1..0.3` (range) or `finetune.beta=0,0.1` (choices).

    A range has integers if the setting takes integers only. It is logarithmic if it is positive and
    its upper end is at least ten times the lower one.

    Args:
        args: the settings that are not searched.
        vary: the texts; if empty, the default space for these settings is returned.

    Raises:
        ConfigError: another table than `finetune`, an unknown key, or a value that is never valid.
    """
    space: Space = {}
    for text in vary or _default_space(args):
        name, values = _parse(text)
        if name in space:
            raise ConfigError(f"--vary {text}: finetune.{name} is given twice; give it once.")
        parse_values = _range if ".." in values else _choice
        space[name] = parse_values(args, (name, values), f"--vary {text}")
    return space


def from_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the parameters of an Optuna trial."""
    return {key: json.loads(v) if isinstance(v, str) else v for key, v in params.items()}


def to_params(args: FinetuneConfig, space: Space) -> dict[str, Any] | None:
    """Return the settings as parameters of an Optuna trial, or None if one is not in the space."""
    params: dict[str, Any] = {}
    for name, value in args.model_dump(mode="json", include=set(space)).items():
        distribution = space[name]
        if isinstance(distribution, CategoricalDistribution):
            matches = [text for text in distribution.choices if json.loads(str(text)) == value]
        elif isinstance(distribution, FloatDistribution | IntDistribution):
            is_number = isinstance(value, int | float)
            matches = (
                [value] if is_number and distribution.low <= value <= distribution.high else []
            )
        if not matches:
            return None
        params[name] = matches[0]
    return params


def _default_space(args: FinetuneConfig) -> list[str]:
    """Return the default search space, without settings that have no effect with these."""
    vary = ["finetune.learning_rate=5e-4..5e-3", "finetune.ema_decay=0.9,0.99,0.999"]
    if isinstance(args, RegularisedConfig):
        vary += ["finetune.beta=0,0.1,0.3"]
    if DISCOUNTED & set(args.reward_funcs):
        vary += ["finetune.horizon=1,3,5,10,20", "finetune.discount=0.5..1"]
    if set(args.reward_funcs) - ITEM_REWARDS:
        vary += ["finetune.reward_smoothing=auto,0,0.5"]
    if args.algorithm == "grpo" and not args.draws:
        vary += ["finetune.loss_type=log,grpo"]
    return vary


def _parse(text: str) -> tuple[str, str]:
    key, _, values = text.partition("=")
    table, _, name = key.strip().partition(".")
    if not name or not values.strip():
        raise ConfigError(
            "--vary takes finetune.KEY=LOW..HIGH or finetune.KEY=A,B,C, like finetune.beta=0,0.3, "
            f"not {text!r}."
        )
    if table == "grpo":
        _LOG.warning("--vary %s: write finetune.KEY; grpo.KEY is deprecated.", text)
    elif table != "finetune":
        raise ConfigError(
            f"--vary {text}: all trials share one base model, so only settings of finetune can "
            "vary; change others for all trials with --set."
        )
    if name in _FIXED:
        raise ConfigError(f"--vary {text}: finetune.{name} cannot vary: {_FIXED[name]}.")
    return name, values


def _range(args: FinetuneConfig, parsed: tuple[str, str], where: str) -> BaseDistribution:
    name, values = parsed
    try:
        low, high = (float(end) for end in values.split(".."))
    except ValueError:
        raise ConfigError(
            f"{where}: a range must be LOW..HIGH, two numbers like 1e-4..1e-2."
        ) from None
    is_integer = _takes_integers(args, name)
    for end in (low, high):
        _check(args, name, int(end) if is_integer and end.is_integer() else end, where)
    if low >= high:
        raise ConfigError(f"{where}: LOW must be below HIGH, but {low:g} is not below {high:g}.")
    log = low > 0 and high >= 10 * low
    if is_integer:
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)


def _takes_integers(args: FinetuneConfig, name: str) -> bool:
    """Return whether a setting takes integers, and no other numbers."""
    field = type(args).model_fields.get(name)
    kinds = (get_args(field.annotation) or (field.annotation,)) if field else ()
    return any(kind is int or get_args(kind)[:1] == (int,) for kind in kinds)


def _choice(args: FinetuneConfig, parsed: tuple[str, str], where: str) -> BaseDistribution:
    name, values = parsed
    items = toml_value(f"[{values}]")
    if not isinstance(items, list):  # bare words
        items = [toml_value(word.strip()) for word in values.split(",")]
    for value in items:
        _check(args, name, value, where)
    choices = dict.fromkeys(json.dumps(value) for value in items)
    if len(choices) < 2:
        raise ConfigError(f"{where}: there is only one value; give at least two, or use --set.")
    return CategoricalDistribution(list(choices))


def _check(args: FinetuneConfig, name: str, value: object, where: str) -> None:
    """Raise a ConfigError if a value of a setting is invalid whatever the other settings are."""
    try:
        resolve({"finetune": {"algorithm": args.algorithm, name: value}}, where)
    except ConfigError as error:
        cause = error.__cause__
        # An error without a key is about a combination, which may be valid in another trial.
        if not isinstance(cause, ValidationError) or cause.errors()[0]["loc"]:
            raise
