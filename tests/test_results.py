"""The committed results are those of the committed experiments, and the README shows them."""

import importlib.util
import json
import tomllib
from pathlib import Path

import pytest

from recoach.experiments.config import read_config, resolve

ROOT = Path(__file__).resolve().parent.parent
RESULTS = sorted((ROOT / "results").glob("*.json"))
CELLS = sorted((ROOT / "results").glob("*/*/*.json"))


@pytest.fixture(scope="module")
def collect():
    spec = importlib.util.spec_from_file_location("collect", ROOT / "experiments" / "collect.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_cells_of_the_suites_are_written_down(collect):
    for name, tables in collect.cells().items():
        assert tomllib.loads((ROOT / "experiments" / name).read_text()) == tables
    written = (ROOT / "experiments").glob("*/*/*.toml")
    assert {str(path.relative_to(ROOT / "experiments")) for path in written} == set(collect.cells())


@pytest.mark.parametrize("path", CELLS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_result_of_a_suite_was_made_with_the_settings_of_its_cell(path, collect):
    cell, _, seed = path.stem.rpartition("-")
    name = path.relative_to(ROOT / "results").parent / f"{cell}.toml"
    tables = collect.cells()[str(name)] | {"seed": int(seed)}
    stored = json.loads(path.read_text())["config"]
    assert resolve(stored, path.name).tables() == resolve(tables, cell).tables()


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_was_made_with_the_settings_of_its_experiment(path):
    config = read_config(ROOT / "experiments" / f"{path.stem}.toml")
    stored = json.loads(path.read_text())["config"]
    # A setting that came later has its default in both.
    found, expected = resolve(stored, path.name).tables(), config.tables()
    if not config.finetune:
        for tables in (found, expected):
            tables.pop("grpo")
    assert found == expected


def test_the_tables_of_the_documents_are_those_of_the_results(collect):
    for name, table in collect.TABLES.items():
        assert f"{collect.BEGIN}\n{table()}\n{collect.END}" in (ROOT / name).read_text()


def test_every_reference_has_its_experiment(collect):
    assert all((ROOT / "experiments" / f"{name}.toml").exists() for name in collect.REFERENCES)
