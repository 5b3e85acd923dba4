"""The committed results have the settings of their cells, and the documents show them."""

import pytest

from pages import ROOT
from recoach.experiments.config import resolve
from recoach.report.table_formats import latex, markdown
from recoach.reproduction.collect import (
    DOCUMENTS,
    aggregate_committed,
    committed_cells,
    committed_tables,
    documents,
    restore,
)
from recoach.reproduction.committed import read_results

RECORDS = read_results(ROOT / "results")
RUNS = [key for key in RECORDS if key.seed is not None]
CELLS = committed_cells()


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Return the tables made from the Parquet files alone, without any run."""
    runs = tmp_path_factory.mktemp("runs")
    restore(RECORDS, runs)
    return committed_tables(aggregate_committed(runs), RECORDS)


@pytest.mark.parametrize("key", RUNS, ids=lambda key: "-".join(str(part) for part in key))
def test_a_result_was_made_with_the_settings_of_its_cell(key):
    settings = CELLS[key[:3]] | {"seed": key.seed}
    # A setting that was added later has its default in both.
    stored = resolve(RECORDS[key]["config"], key.cell).tables()
    expected = resolve(settings, key.cell)
    if not expected.finetune:
        stored.pop("grpo")
        assert stored == {k: v for k, v in expected.tables().items() if k != "grpo"}
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
