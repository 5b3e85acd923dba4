"""A setting under TRL's name is refused with what docs/reference/trl.md says about it."""

import re
from pathlib import Path

import pytest

from recoach.errors import ConfigError
from recoach.experiments.config import resolve
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.ppo import PPOConfig
from recoach.training.context import RunContext
from recoach.training.trl_names import TRL_NAMES

PAGE = Path(__file__).parents[2] / "docs/reference/trl.md"
LINES = PAGE.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("num_train_epochs", "Set epochs."),
        ("per_device_train_batch_size", "Set batch_size, which counts states."),
        ("seed", "Pass context=recoach.RunContext(seed=...) to the trainer."),
        ("output_dir", "Pass context=recoach.RunContext(folder=...) to the trainer."),
        ("report_to", "Pass context=recoach.RunContext(report_to=...) to the trainer."),
        ("logging_steps", "Set eval_steps: averages are logged at every evaluation."),
        ("use_vllm", "It has no counterpart here; leave it out."),
    ],
)
def test_a_name_of_trl_is_answered(name, advice):
    for config in (GRPOConfig, PPOConfig):
        with pytest.raises(ConfigError) as caught:
            config(**{name: 1})
        message = f"{config.__name__}: there is no setting {name!r}. {advice}"
        assert str(caught.value) == message
    with pytest.raises(ConfigError, match=re.escape(advice)):
        resolve({"finetune": {name: 1}}, "a.toml")


@pytest.mark.parametrize("name", TRL_NAMES)
def test_the_answer_is_that_of_the_page(name):
    assert name not in GRPOConfig.model_fields
    advice = TRL_NAMES[name]
    settings = re.findall(r"(?:Set |^Pass context=recoach.RunContext[(])(\w+)", advice)
    settings += re.findall(r", (\w+)=", advice)
    known = RunContext.__dataclass_fields__ if "RunContext" in advice else GRPOConfig.model_fields
    assert set(settings) <= set(known)
    lines = [line for line in LINES if f"`{name}`" in line]
    assert lines
    for setting in settings:
        assert any(re.search(rf"\b{setting}\b", line) for line in lines)


def test_every_name_that_the_page_gives_to_another_setting_is_answered():
    """The last column of the settings that only Recoach has."""
    start = LINES.index("## Settings that only Recoach has")
    end = LINES.index("## What has no counterpart")
    for line in LINES[start:end]:
        if line.startswith("| `"):
            setting, last = line.split("|")[1].strip(" `"), line.split("|")[3]
            for name in re.findall(r"`([a-z_]+)`", last):
                if name not in GRPOConfig.model_fields and "_" in name and "event_" not in name:
                    assert f"Set {setting}" in TRL_NAMES[name]
