"""Any TOML file gives either a configuration or a ConfigError that names the file or the key."""

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recoach.errors import ConfigError
from recoach.experiments.config import ExperimentConfig, read_config
from recoach.models.registry import MODELS

FIELDS = [
    (table, key)
    for table, values in read_config(None).tables().items()
    for key in (values if isinstance(values, dict) else [None])
]
INVALID_VALUES = [
    True,
    False,
    "",
    "x",
    "1",
    -1,
    0,
    1,
    2**63,
    -(2**70),
    0.5,
    -0.1,
    1e308,
    float("inf"),
]
INVALID_VALUES += [float("nan"), [], [1, "a"], [[]], {}, {"a": {}}, "\x00", "ü" * 300]
any_value = st.recursive(
    st.sampled_from(INVALID_VALUES[:15]) | st.text(max_size=8) | st.floats() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def assert_config_or_clear_error(path, text, table):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        config = read_config(path)
    except ConfigError as error:
        message = str(error)
        assert str(path) in message or table in message, message
    else:
        assert isinstance(config, ExperimentConfig)


@pytest.mark.parametrize(("table", "key"), FIELDS)
def test_every_setting_rejects_invalid_values(table, key, tmp_path):
    for value in INVALID_VALUES:
        raw = {table: value if key is None else {key: value}}
        assert_config_or_clear_error(tmp_path / "x.toml", tomli_w.dumps(raw), table)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_setting_rejects_invalid_values(model, tmp_path):
    for key in MODELS[model].config.model_fields:
        for value in INVALID_VALUES:
            raw = {"model": {"name": model, key: value}}
            assert_config_or_clear_error(tmp_path / "x.toml", tomli_w.dumps(raw), "model")


def fuzz(path, examples):
    quick = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}

    @settings(max_examples=examples, derandomize=examples < 1000, **quick)
    @given(
        st.dictionaries(
            st.sampled_from([table for table, _ in FIELDS]),
            any_value | st.dictionaries(st.sampled_from([k for _, k in FIELDS if k]), any_value),
        )
    )
    def tables(raw):
        try:
            text = tomli_w.dumps(raw)
        except (TypeError, ValueError, UnicodeError):
            return
        assert_config_or_clear_error(path, text, "")

    @settings(max_examples=examples, derandomize=examples < 1000, **quick)
    @given(st.floats(0, 1), st.integers(0, 9), st.binary(max_size=6))
    def text(place, length, new):
        content = read_config(None).toml().encode()
        at = int(place * len(content))
        assert_config_or_clear_error(path, content[:at] + new + content[at + length :], "")

    tables()
    text()


def test_mutated_configs_are_read_or_rejected(tmp_path):
    fuzz(tmp_path / "x.toml", 60)


@pytest.mark.slow
def test_many_mutated_configs_are_read_or_rejected(tmp_path):
    fuzz(tmp_path / "x.toml", 20_000)


def test_deeply_nested_toml_is_rejected(tmp_path):
    (tmp_path / "x.toml").write_text("a = " + "[" * 100_000)
    with pytest.raises(ConfigError, match="is not valid TOML"):
        read_config(tmp_path / "x.toml")
    with pytest.raises(ConfigError, match="--set"):
        read_config(None, ["finetune.trainable=" + "[" * 100_000])
