"""The example files of `examples/` resolve, say how they are run, and run on a tiny log."""

import json
import shlex

import polars as pl
import pytest

import recoach
from pages import ROOT, blocks
from recoach.cli.main import app
from recoach.experiments.config import read_config

EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))
SHORT = ["pretrain.max_steps=2", "model.dim=8", "finetune.max_steps=2", "finetune.eval_steps=1"]


def test_there_are_seven_examples():
    assert len(EXAMPLES) == 7


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_resolves_and_is_short(path):
    config = read_config(path)
    assert config.finetune
    assert config.data.path == ("sessions" if path.stem == "sessions" else "log.csv")
    assert len(path.read_text().splitlines()) <= 45


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_command_in_the_comment_of_an_example_parses(path):
    (line,) = (row[1:] for row in path.read_text().splitlines() if "recoach run " in row)
    words = shlex.split(line)
    assert words[2] == path.relative_to(ROOT).as_posix()
    app.parse_args(words[1:], exit_on_error=False, print_error=False)


@pytest.mark.parametrize("name", ["quickstart", "rewards"])
def test_an_example_runs_on_a_tiny_log(name, tmp_path, monkeypatch):
    write_log(tmp_path / "log.csv")
    monkeypatch.chdir(tmp_path)
    line = ["run", str(ROOT / "examples" / f"{name}.toml"), "--output", "run", "--set", *SHORT]
    app(line, exit_on_error=False, print_error=False, result_action="return_value")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["models"]) == {"popularity", "base", "tuned", "control"}


MODELS = {
    "two-towers-with-item-text": "two_towers",
    "neumf": "neumf",
    "cross-attention-ranker": "cross_attention",
}


@pytest.mark.parametrize("page", MODELS)
def test_the_code_of_a_tutorial_is_that_of_its_example(page):
    code = (ROOT / "examples" / f"{MODELS[page]}.py").read_text()
    shown = blocks(ROOT / "docs" / "tutorials" / f"{page}.md", "py")
    assert [block for block in shown[:2] if block.rstrip() not in code] == []
    assert f"from examples.{MODELS[page]} import build" in shown[2]


def write_log(path):
    """Write a small simulated log."""
    log = recoach.shop(n_users=60, n_items=40, seed=3).interactions
    columns = {
        "user_id": log.user_ids.gather(log.users),
        "item_id": log.item_ids.gather(log.items),
        "timestamp": range(len(log)),
    }
    pl.DataFrame(columns).write_csv(path)
