"""Settings are immutable and refuse unknown keys, infinities and NaN."""

import pytest
from pydantic import ValidationError

import recoach
from recoach.config import StrictConfig
from recoach.data.config import PrepareConfig
from recoach.errors import ConfigError
from recoach.models.sequence.sasrec import SASRecConfig


class Settings(StrictConfig):
    rate: float = 1.0
    """Steps per second."""


@pytest.mark.parametrize("values", [{"rtae": 1.0}, {"rate": float("inf")}, {"rate": float("nan")}])
def test_unknown_keys_and_non_finite_numbers_are_refused(values):
    with pytest.raises(ConfigError):
        Settings(**values)


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().rate = 2.0


MESSAGES = {
    "GRPOConfig: there is no setting 'learning_rte'. Did you mean 'learning_rate'?": (
        lambda: recoach.GRPOConfig(learning_rte=1e-3)
    ),
    "GRPOConfig: there is no setting 'epoch'. Did you mean 'epochs'?": (
        lambda: recoach.GRPOConfig.paper(epoch=1)
    ),
    "GRPOConfig.epochs: Input should be greater than 0 (given: 0).": (
        lambda: recoach.GRPOConfig(epochs=0)
    ),
    "PretrainConfig: there is no setting 'patients'. Did you mean 'patience'?": (
        lambda: recoach.PretrainConfig(patients=3)
    ),
    "PrepareConfig: there is no setting 'valid_rato'. Did you mean 'valid_ratio'?": (
        lambda: PrepareConfig(split={"kind": "ratio", "valid_rato": 0.2})
    ),
    "SASRecConfig: there is no setting 'n_layer'. Did you mean 'layers'?": (
        lambda: SASRecConfig(n_layer=1)
    ),
    "ByTime.valid: Input should be 'time', 'users' or 'last' (given: 'frist').": (
        lambda: recoach.ByTime(valid="frist")
    ),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_an_error_names_the_setting_and_the_closest_one(message):
    with pytest.raises(ConfigError) as caught:
        MESSAGES[message]()
    assert str(caught.value) == message


def test_the_schema_describes_every_setting():
    for config in (recoach.GRPOConfig, recoach.PretrainConfig, PrepareConfig, SASRecConfig):
        properties = config.model_json_schema()["properties"]
        assert [name for name, field in properties.items() if not field.get("description")] == []
    assert Settings.model_fields["rate"].description == "Steps per second."
