"""Settings of re-rankers on the command line."""

from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from recoach.config import validation_message
from recoach.errors import ConfigError
from recoach.rerank.config import RerankConfig


def rerank_config(words: Sequence[str] | None) -> RerankConfig | None:
    """Return the settings of `--rerank by=mmr knob=0.3`; None without the option.

    Raises:
        ConfigError: a word is not KEY=VALUE, or a setting is unknown or out of range.
    """
    if words is None:
        return None
    values: dict[str, object] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign:
            raise ConfigError(f"--rerank must be KEY=VALUE, like by=mmr knob=0.3, not {word!r}.")
        values[key] = value
    return checked_config(values, "--rerank")


def checked_config(values: Mapping[str, object], where: str) -> RerankConfig:
    """Return settings; a ConfigError about one of them begins with `where`."""
    try:
        return RerankConfig.model_validate(values)
    except ValidationError as error:
        message = validation_message(error, RerankConfig, values, where)
        raise ConfigError(message) from error
