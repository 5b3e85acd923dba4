import io
import re

import polars as pl
import pytest

from recoach.cli.console import PlainConsole
from recoach.data.interactions import Interactions
from recoach.evaluation.audit import audit
from recoach.report.audit import audit_page, audit_tables
from recoach.report.table_formats import console_table
from recoach.simulation.shop import shop


@pytest.fixture(scope="module")
def found():
    log = shop(n_users=80, n_items=40, seed=2).interactions
    types = pl.Series(["[b]view", "<b>buy"] * len(log))[: len(log)]
    columns = dict(log.columns) | {"event_type": types.cast(pl.Enum(["[b]view", "<b>buy"]))}
    return audit(Interactions(log.users, log.items, log.user_ids, log.item_ids, columns))


def printed(tables):
    console = PlainConsole()
    console.file = io.StringIO()
    console.width = 140
    for table in tables:
        console.print(console_table(table))
    return console.file.getvalue()


def test_the_tables_hold_the_numbers_of_the_audit(found):
    tables = {table.heading: table for table in audit_tables(found)}
    assert [*tables] == ["Log", "What each split tests", "Event types", "Change over time"]
    log = dict(tables["Log"].rows)
    assert log["rows"] == f"{found.rows:,}"
    assert log["users"] == "80"
    splits = {row[0]: row[1:] for row in tables["What each split tests"].rows}
    assert splits["targets"] == tuple(f"{split.targets:,}" for split in found.splits)
    assert len(tables["Change over time"].rows) == 10


def test_names_from_the_log_are_no_markup_in_the_terminal(found):
    text = printed(audit_tables(found))
    assert "[b]view" in text
    assert "<b>buy" in text


def test_the_page_has_sentences_tables_and_a_figure_and_loads_nothing(found):
    page = audit_page(found, "<my> log")
    assert "<h1>Audit of &lt;my&gt; log</h1>" in page
    assert "&lt;b&gt;buy" in page
    assert "<b>buy" not in page
    assert page.count("data:image/png;base64,") == 1
    assert not re.search(r"""(src|href)=(?!["']?data:)""", page)
    for sentence in found.advice:
        assert sentence.split('"')[0] in page


def test_a_split_that_is_not_possible_has_no_numbers_but_its_reason():
    log = shop(n_users=80, n_items=40, seed=2).interactions
    short = Interactions(log.users[:2], log.items[:2], log.user_ids, log.item_ids, {})
    (table,) = [t for t in audit_tables(audit(short)) if t.heading == "What each split tests"]
    assert {row[1] for row in table.rows} == {"–"}
    assert "leave last out: users have too little history" in table.note
