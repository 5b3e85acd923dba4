"""The base class of all settings."""

from pydantic import BaseModel, ConfigDict


class StrictConfig(BaseModel):
    """Immutable settings that refuse unknown keys, infinities and NaN.

    Pydantic raises a ValidationError for these; `recoach.experiments.config` converts it to a
    ConfigError with the file and the key. Subclasses pass further settings of pydantic as class
    arguments (`class PrepareConfig(StrictConfig, use_attribute_docstrings=True)`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
