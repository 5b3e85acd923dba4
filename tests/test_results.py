"""The committed results have the settings of their cells, and the documents show them."""

import json
import shutil

import pytest

from pages import ROOT
from recoach.data.protocol import Auto
from recoach.experiments.config import resolve
from recoach.report.table_formats import latex, markdown
from tools.results.collect import (
    DOCUMENTS,
    aggregate_committed,
    committed_cells,
    committed_tables,
    documents,
    main,
    restore,
)
from tools.results.committed import RunKey, read_results
from tools.results.user_values import restore_user_values

RECORDS = read_results(ROOT / "results")
RUNS = [key for key in RECORDS if key.seed is not None]
CELLS = committed_cells()


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Return the tables made from the Parquet files alone, without any run."""
    runs = tmp_path_factory.mktemp("runs")
    restore(RECORDS, runs)
    restore_user_values(ROOT / "results", runs)
    return committed_tables(aggregate_committed(runs), RECORDS)


@pytest.mark.parametrize("key", RUNS, ids=lambda key: "-".join(str(part) for part in key))
def test_a_result_was_made_with_the_settings_of_its_cell(key):
    settings = CELLS[key[:3]] | {"seed": key.seed}
    # A setting that was added later has its default in both.
    stored = resolve(RECORDS[key]["config"], key.cell).tables()
    expected = resolve(settings, key.cell)
    if "split" not in settings["data"]:  # split already; earlier versions stored their default
        assert stored["data"].pop("split")["kind"] == "leave_last_out"
        assert expected.data.split == Auto()
        stored["data"]["split"] = {"kind": "auto"}
    if not expected.finetune_enabled:
        assert not stored.pop("finetune")["enabled"]
        assert stored == {k: v for k, v in expected.tables().items() if k != "finetune"}
    else:
        assert stored == expected.tables()


def test_the_parquet_files_reproduce_the_committed_tables(tables):
    folder = ROOT / "results" / "tables"
    assert {path.stem for path in folder.glob("*.md")} == set(tables)
    for name, grids in tables.items():
        assert (folder / f"{name}.md").read_text() == markdown(grids)
        assert (folder / f"{name}.tex").read_text() == latex(grids)


def test_the_documents_show_the_committed_tables(tables):
    for name, text in documents(ROOT, tables).items():
        assert (ROOT / name).read_text() == text


def test_every_table_of_a_document_exists(tables):
    assert {table for names in DOCUMENTS.values() for table in names} <= set(tables)


def test_a_finished_run_is_added_to_the_results_the_tables_and_the_documents(tmp_path):
    shutil.copytree(ROOT / "results", tmp_path / "results")
    for name in DOCUMENTS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    key = RunKey("gains", "baby-2023", "lightgcn", 2020)
    record = RECORDS[key] | {"seed": 2099}
    run = tmp_path / "runs/reproduce/gains/baby-2023/lightgcn-2099"
    run.mkdir(parents=True)
    (run / "results.json").write_text(json.dumps(record))
    main(tmp_path)
    added = {
        new: one for new, one in read_results(tmp_path / "results").items() if new.seed == 2099
    }
    assert added == {key._replace(seed=2099): record}
    assert "2099" in (tmp_path / "results/tables/gains.md").read_text()
    page = "docs/results/gains.md"
    assert (tmp_path / page).read_text() != (ROOT / page).read_text()
    assert (tmp_path / "results/tables/gains.svg").read_text().startswith("<?xml")
