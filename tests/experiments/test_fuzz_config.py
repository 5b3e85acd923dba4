"""Whatever stands in a TOML file: settings, or one ConfigError that names the place."""

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
ODD = [True, False, "", "x", "1", -1, 0, 1, 2**63, -(2**70), 0.5, -0.1, 1e308, float("inf")]
ODD += [float("nan"), [], [1, "a"], [[]], {}, {"a": {}}, "\x00", "ü" * 300]
anything = st.recursive(
    st.sampled_from(ODD[:15]) | st.text(max_size=8) | st.floats() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def assert_settings_or_one_sentence(path, text, place):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        found = read_config(path)
    except ConfigError as error:
        said = str(error)
        assert str(path) in said or place in said, said
    else:
        assert isinstance(found, ExperimentConfig)


@pytest.mark.parametrize(("table", "key"), FIELDS)
def test_every_setting_refuses_what_it_cannot_be(table, key, tmp_path):
    for value in ODD:
        raw = {table: value if key is None else {key: value}}
        assert_settings_or_one_sentence(tmp_path / "x.toml", tomli_w.dumps(raw), table)


@pytest.mark.parametrize("model", MODELS)
def test_every_setting_of_a_model_refuses_what_it_cannot_be(model, tmp_path):
    for key in MODELS[model].config.model_fields:
        for value in ODD:
            raw = {"model": {"name": model, key: value}}
            assert_settings_or_one_sentence(tmp_path / "x.toml", tomli_w.dumps(raw), "model")


def fuzz(path, examples):
    quick = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}

    @settings(max_examples=examples, derandomize=examples < 1000, **quick)
    @given(
        st.dictionaries(
            st.sampled_from([table for table, _ in FIELDS]),
            anything | st.dictionaries(st.sampled_from([k for _, k in FIELDS if k]), anything),
        )
    )
    def tables(raw):
        try:
            text = tomli_w.dumps(raw)
        except (TypeError, ValueError, UnicodeError):
            return
        assert_settings_or_one_sentence(path, text, "")

    @settings(max_examples=examples, derandomize=examples < 1000, **quick)
    @given(st.floats(0, 1), st.integers(0, 9), st.binary(max_size=6))
    def text(place, length, new):
        content = read_config(None).toml().encode()
        at = int(place * len(content))
        assert_settings_or_one_sentence(path, content[:at] + new + content[at + length :], "")

    tables()
    text()


def test_mutated_settings_are_read_or_refused(tmp_path):
    fuzz(tmp_path / "x.toml", 60)


@pytest.mark.slow
def test_very_many_mutated_settings_are_read_or_refused(tmp_path):
    fuzz(tmp_path / "x.toml", 20_000)


def test_a_deep_nest_is_no_toml(tmp_path):
    (tmp_path / "x.toml").write_text("a = " + "[" * 100_000)
    with pytest.raises(ConfigError, match="is not TOML"):
        read_config(tmp_path / "x.toml")
    with pytest.raises(ConfigError, match="--set"):
        read_config(None, ["grpo.trainable=" + "[" * 100_000])
