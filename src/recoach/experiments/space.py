"""What a search may draw: settings of `grpo` as ranges and choices."""

import json
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
from recoach.policy.reward_funcs import DISCOUNTED
from recoach.training.config import GRPOConfig

Space = dict[str, BaseDistribution]
"""A distribution for each setting that varies; choices are drawn as JSON."""

_FIXED: Final = {
    "metric": "it is what trials are compared by",
    "preset": "it stands for many settings; vary those",
}


def read_space(grpo: GRPOConfig, vary: Sequence[str]) -> Space:
    """Return the space of texts like `grpo.learning_rate=1e-4..1e-2` or `grpo.beta=0,0.1`.

    A range is of whole numbers where the setting is, and logarithmic where it is positive and
    ends at ten times its beginning or more.

    Args:
        grpo: the settings without a search.
        vary: the texts; without any, what matters in the recipe varies.

    Raises:
        ConfigError: another table than `grpo`, an unknown key, a value its setting never takes.
    """
    space: Space = {}
    for text in vary or _recipe(grpo):
        name, values = _parted(text)
        if name in space:
            raise ConfigError(f"--vary {text}: grpo.{name} varies already.")
        read = _range if ".." in values else _choice
        space[name] = read(name, values, f"--vary {text}")
    return space


def from_params(drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was drawn as values of settings."""
    return {key: json.loads(v) if isinstance(v, str) else v for key, v in drawn.items()}


def to_params(grpo: GRPOConfig, space: Space) -> dict[str, Any] | None:
    """Return the settings as if they had been drawn, or None where the space lacks one."""
    drawn: dict[str, Any] = {}
    for name, value in grpo.model_dump(mode="json", include=set(space)).items():
        distribution = space[name]
        if isinstance(distribution, CategoricalDistribution):
            same = [text for text in distribution.choices if json.loads(str(text)) == value]
        elif isinstance(distribution, FloatDistribution | IntDistribution):
            number = isinstance(value, int | float)
            same = [value] if number and distribution.low <= value <= distribution.high else []
        if not same:
            return None
        drawn[name] = same[0]
    return drawn


def _recipe(grpo: GRPOConfig) -> list[str]:
    """Return what varies where nobody says what, without settings that have no effect here."""
    vary = ["grpo.learning_rate=5e-4..5e-3", "grpo.ema_decay=0.9,0.99,0.999", "grpo.beta=0,0.1,0.3"]
    if DISCOUNTED & set(grpo.reward_funcs):
        vary += ["grpo.horizon=1,3,5,10,20", "grpo.discount=0.5..1"]
    if set(grpo.reward_funcs) - {"novelty"}:
        vary += ["grpo.reward_smoothing=auto,0,0.5"]
    if grpo.algorithm == "grpo" and not grpo.draws:
        vary += ["grpo.loss_type=log,grpo"]
    return vary


def _parted(text: str) -> tuple[str, str]:
    key, _, values = text.partition("=")
    table, _, name = key.strip().partition(".")
    if not name or not values.strip():
        raise ConfigError(
            "--vary takes grpo.KEY=LOW..HIGH or grpo.KEY=A,B,C, like grpo.beta=0,0.3, not "
            f"{text!r}."
        )
    if table != "grpo":
        raise ConfigError(
            f"--vary {text}: all trials share one base, only settings of grpo can vary; --set "
            "changes others for all of them."
        )
    if name in _FIXED:
        raise ConfigError(f"--vary {text}: grpo.{name} cannot vary: {_FIXED[name]}.")
    return name, values


def _range(name: str, values: str, where: str) -> BaseDistribution:
    try:
        low, high = (float(end) for end in values.split(".."))
    except ValueError:
        raise ConfigError(f"{where}: a range is LOW..HIGH, two numbers like 1e-4..1e-2.") from None
    whole = _is_whole(name)
    for end in (low, high):
        _check(name, int(end) if whole and end.is_integer() else end, where)
    if low >= high:
        raise ConfigError(f"{where}: a range goes up, and {low:g} is not below {high:g}.")
    log = low > 0 and high >= 10 * low
    if whole:
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)


def _is_whole(name: str) -> bool:
    """Return whether the numbers that a setting takes are whole, besides words or nothing."""
    field = GRPOConfig.model_fields.get(name)
    kinds = (get_args(field.annotation) or (field.annotation,)) if field else ()
    return any(kind is int or get_args(kind)[:1] == (int,) for kind in kinds)


def _choice(name: str, values: str, where: str) -> BaseDistribution:
    listed = toml_value(f"[{values}]")
    if not isinstance(listed, list):  # bare words
        listed = [toml_value(word.strip()) for word in values.split(",")]
    for value in listed:
        _check(name, value, where)
    choices = dict.fromkeys(json.dumps(value) for value in listed)
    if len(choices) < 2:
        raise ConfigError(f"{where}: one value leaves nothing to search; give it with --set.")
    return CategoricalDistribution(list(choices))


def _check(name: str, value: object, where: str) -> None:
    """Refuse a value that its setting takes in no combination."""
    try:
        resolve({"grpo": {name: value}}, where)
    except ConfigError as error:
        cause = error.__cause__
        # An error of no key is one of the combination, which may be right in another trial.
        if not isinstance(cause, ValidationError) or cause.errors()[0]["loc"]:
            raise
