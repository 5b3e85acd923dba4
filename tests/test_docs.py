"""The examples of the pages work: Python blocks run, commands parse, settings resolve."""

import importlib
import importlib.util
import re
import tomllib

import pytest

from pages import PAGES, ROOT, blocks, commands
from recoach.cli.main import app
from recoach.experiments.config import DataConfig, EvaluationConfig, resolve
from recoach.models.registry import MODELS
from recoach.training.algorithms.registry import ALGORITHMS
from recoach.training.pretrain_config import PretrainConfig


def test_the_readme_shows_python_and_the_command_line():
    assert blocks(ROOT / "README.md", "python")
    assert commands(ROOT / "README.md")


NOTEBOOKS = {path.stem for path in (ROOT / "examples").glob("*.ipynb")}
PYTHON = [page for page in PAGES if blocks(page, "python") and page.stem not in NOTEBOOKS]
"""Pages with Python; those that are notebooks too are run by test_docs_notebooks.py."""


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.name)
def test_python_blocks_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for number, text in enumerate(blocks(page, "python"), 1):
        exec(compile(text, f"{page.name}, block {number}", "exec"), names)


SHELL = [(page.name, line) for page in PAGES for line in commands(page)]


@pytest.mark.parametrize(("page", "line"), SHELL, ids=lambda part: " ".join(part)[:60])
def test_commands_parse(page, line):
    if len(line) == 1 or "--help" in line:  # a command is only mentioned
        assert line[0] in [*app, "--help", "--version"]
        return
    if len(line) == 2 and line[0] == "data" and line[1] in app["data"]:
        return
    app.parse_args(line, exit_on_error=False, print_error=False)


TOML = [(page.name, text) for page in PAGES for text in blocks(page, "toml")]


@pytest.mark.parametrize(("page", "text"), TOML, ids=lambda part: part.split()[0])
def test_toml_blocks_resolve(page, text):
    assert resolve(tomllib.loads(text), page)


METHOD = (ROOT / "docs" / "explanation" / "method.md").read_text()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(recoach(?:\.\w+)+)`", METHOD))))
def test_a_function_named_by_the_method_page_exists(name):
    parts = name.split(".")
    depth = next(n for n in range(len(parts), 0, -1) if _is_module(".".join(parts[:n])))
    value = importlib.import_module(".".join(parts[:depth]))
    for part in parts[depth:]:
        value = getattr(value, part)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", METHOD))))
def test_a_test_named_by_the_method_page_exists(name):
    path, _, test = name.partition("::")
    assert f"def {test}(" in (ROOT / path).read_text()


TABLES = {
    "finetune": {f for entry in ALGORITHMS.values() for f in entry.config.model_fields},
    "pretrain": set(PretrainConfig.model_fields),
    "data": set(DataConfig.model_fields),
    "evaluation": set(EvaluationConfig.model_fields),
    "model": {field for entry in MODELS.values() for field in entry.config.model_fields},
}
"""The settings of each table of a run's TOML; a model's are those of any model."""


def settings_named(cell):
    """Return (table, setting) of each name in a cell; a name belongs to the table before it."""
    table, pairs = "finetune", []
    for bracketed, name in re.findall(r"`(?:\[(\w+)\] )?(\w+)`", cell):
        table = bracketed or table
        pairs.append((table, name))
    return pairs


def test_every_setting_named_by_the_method_page_belongs_to_its_table():
    rows = METHOD.split("## What the paper leaves open")[1].split("## Departures")[0]
    cells = [line.split("|")[2] for line in rows.splitlines() if line.startswith("| ")][1:]
    named = [pair for cell in cells for pair in settings_named(cell)]
    assert {table for table, _ in named} == set(TABLES)
    assert len(named) > 30
    assert [pair for pair in named if pair[1] not in TABLES[pair[0]]] == []


def _is_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
