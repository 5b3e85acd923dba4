"""No row of delimited text is lost, merged or shifted: it is read, or its line is named."""

import csv
import dataclasses
import gzip
import io

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recoach.data.ingest import read_interactions
from recoach.data.log_reader import LogReader
from recoach.data.readers.delimited import open_delimited
from recoach.data.readers.rows import LineNumbers
from recoach.data.readers.text import LogFile
from recoach.errors import DataError

HEAD = "user_id,item_id,title\n"
ROWS = "".join(f"u{k},i{k},t{k}\n" for k in range(10))


def write(tmp_path, text, name="a.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows_of(path, separator=",", **options):
    table = open_delimited(LogFile(path), separator, **options)
    return [tuple(row) for row in table.frame.collect().rows()]


def pairs_of(path):
    return read_interactions(path).frame().select("user_id", "item_id").rows()


def inch_marks(rows):
    """Return rows of which `rows` have an inch mark in their title."""
    return "".join(
        f"u{k % 9},i{k % 7}," + (f'{k}" nails\n' if k in rows else f"t{k}\n") for k in range(1000)
    )


@pytest.mark.parametrize("rows", [{10}, {0, 999}, set(range(0, 1000, 3))])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_inch_marks_in_an_unused_column_lose_no_row(tmp_path, rows, separator):
    text = (HEAD + inch_marks(rows)).replace(",", separator)
    log = read_interactions(write(tmp_path, text))
    assert log.frame().select("user_id", "item_id").rows() == [
        (f"u{k % 9}", f"i{k % 7}") for k in range(1000)
    ]


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ('u,i,6" nails', ("u", "i", '6" nails')),
        ('u,6" x 9",t', ("u", '6" x 9"', "t")),
        ('u,i,"6"" nails"', ("u", "i", '6" nails')),
        ('u,i,"""6"" nails"""', ("u", "i", '"6" nails"')),
        ('u,i,"6" nails', ("u", "i", "6 nails")),
        (r'"u","i","6\" nails"', ("u", "i", '6" nails')),
        (r'"u","x\"y, z","t"', ("u", 'x"y, z', "t")),
        (r'"u","i","C:\"', ("u", "i", "C:\\")),
        ('u, "i, j", t', ("u", "i, j", "t")),
        ('u,i,"two\nlines"', ("u", "i", "two\nlines")),
        ('u,i,"good\nbut, as I said, heavy"', ("u", "i", "good\nbut, as I said, heavy")),
        ('u,i,"a\n\nb, c\nd"', ("u", "i", "a\n\nb, c\nd")),
        ('u,i,"a \\"b\\"\nc, d, e"', ("u", "i", 'a "b"\nc, d, e')),
        ('"u\nv",i,t', ("u\nv", "i", "t")),
        ("u,i,", ("u", "i", None)),
        ("\ufeffu,i,t", ("u", "i", "t")),
    ],
)
def test_quotes_are_read_as_by_csv_and_backslashes_before_them_are_dropped(tmp_path, line, values):
    rows = rows_of(write(tmp_path, HEAD + ROWS + line + "\n" + ROWS))
    assert rows[10] == values
    assert rows[:10] == rows[11:] == [(f"u{k}", f"i{k}", f"t{k}") for k in range(10)]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('u,i,"6 nails\n', "a.csv:12: a quote opens a value and is not closed"),
        ('u,i,"6 nails', "a.csv:12: a quote opens a value and is not closed"),
        ('u,i,"6 nails\nv,j,"7 nails\n', "a.csv:12: a quote opens a value and is not closed"),
        ('u,i,"6 nails\nv,j,7 nails"\n', "a.csv:12: a quote opens .* extends over line 13"),
        (f'u,i,"6 nails\n{ROWS}v,j,7 nails"\n', "a.csv:12: a quote opens .* extends over line 13"),
        ("u,i,t,surplus\n", "a.csv:12: 4 values, but the header has 3 columns. Quote the values"),
        ("u,i\n", "a.csv:12: 2 values, but the header has 3 columns. Write all values"),
        ('u,"i,t\n', "a.csv:12: a quote opens a value and is not closed"),
        ("u,i,t\0\n", "a.csv:12: the line holds NUL"),
        ("u,i,t\rv,j,t\n", "a.csv:12: the line holds a carriage return"),
        (",,t\n", "a.csv:12: column user_id is empty"),
    ],
)
def test_a_line_that_would_lose_merge_or_shift_rows_is_named(tmp_path, lines, problem):
    path = write(tmp_path, HEAD + ROWS + lines + ROWS * (not lines.endswith("s")))
    with pytest.raises(DataError, match=problem):
        read_interactions(path)


def test_rows_are_not_merged_where_blanks_follow_the_separators(tmp_path):
    text = 'user_id, item_id, title\nu, i, "6 nails\nv, j, 7 nails"\nw, k, t\n'
    with pytest.raises(DataError, match=r"a\.csv:2: a quote opens .* extends over line 3"):
        read_interactions(write(tmp_path, text))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.inter"])
def test_a_missing_separator_is_named_although_the_ids_are_there(tmp_path, name):
    head = "title:token\tuser_id:token\titem_id:token\n"
    text = head + "a\tu\ti\nu\tv\tb\nu\tv\n"
    if name != "a.inter":
        text = text.replace(":token", "")
    if name == "a.csv":
        text = text.replace("\t", ",")
    with pytest.raises(DataError, match=rf"{name}:4: 2 values, but the header has 3 columns"):
        read_interactions(write(tmp_path, text, name))


def test_quotes_are_part_of_the_values_of_atomic_files(tmp_path):
    text = 'user_id:token\titem_id:token\tt:token_seq\nu\ti\t"open\nv\t6"\ta\nw\tj\tb\n'
    assert pairs_of(write(tmp_path, text, "a.inter")) == [("u", "i"), ("v", '6"'), ("w", "j")]


def test_separators_at_the_end_of_every_line_are_no_column(tmp_path):
    expected = [("u", "i"), ("v", "j")]
    for text in (
        "user_id,item_id\nu,i,\nv,j,\n",
        "user_id,item_id,\nu,i,\nv,j,\n",
        "user_id,item_id,,,\nu,i,,,\nv,j,,,\n",
    ):
        assert pairs_of(write(tmp_path, text)) == expected
    for lines, problem in (
        ("u,i,\nv,j\n", "a.csv:3: 2 values"),
        ("u,i\nv,j,\n", "a.csv:3: 3 values"),
        ("u,i,\nv,j,k\n", "a.csv:3: 3 values, but there are 2 columns"),
    ):
        with pytest.raises(DataError, match=problem):
            read_interactions(write(tmp_path, "user_id,item_id\n" + lines))


def test_blank_lines_and_lines_of_separators_are_skipped_wherever_they_are(tmp_path):
    lines = ["", "u0,i0,t", "", " \t", ",,", "u1,i1,t", " , ,", "u2,i2,t", "", ""]
    path = write(tmp_path, HEAD + "\n".join(lines))
    assert pairs_of(path) == [(f"u{k}", f"i{k}") for k in range(3)]
    table = open_delimited(LogFile(path), ",")
    assert [table.locate(row) for row in range(3)] == ["a.csv:3", "a.csv:7", "a.csv:9"]
    assert len(table.frame.collect()) == 3


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
@pytest.mark.parametrize("last", ["", "\x1a", "END"])
def test_any_line_end_is_read(tmp_path, end, last):
    text = (HEAD + ROWS).replace("\n", end)
    text = text.removesuffix(end) if last == "END" else text + last
    path = write(tmp_path, text)
    assert rows_of(path) == [(f"u{k}", f"i{k}", f"t{k}") for k in range(10)]


def test_a_row_is_found_by_its_line_after_values_with_line_breaks(tmp_path):
    text = HEAD + 'u,i,t\nu,i,"a\nb\nc"\n\nu,i,t\nu,i,"a\nb"\nu,i,t\n'
    table = open_delimited(LogFile(write(tmp_path, text)), ",")
    lines = [table.locate(row) for row in range(5)]
    assert lines == ["a.csv:2", "a.csv:3", "a.csv:7", "a.csv:8", "a.csv:10"]


def test_line_numbers_are_those_that_were_noted():
    numbers = LineNumbers()
    noted = {0: 2, 1: 3, 2: 7, 3: 8, 4: 8, 5: 20}
    for row, line in noted.items():
        numbers.add(row, line)
    assert {row: numbers.of(row) for row in noted} == noted
    assert numbers.of(9) == 24


def test_very_many_columns_and_very_long_values_are_read(tmp_path):
    names = ",".join(f"c{k}" for k in range(300))
    lines = "u,i" + ',"a,b"' * 300 + "\nv,j" + "," * 300
    text = f"user_id,item_id,{names}\n{lines}"
    assert pairs_of(write(tmp_path, text)) == [("u", "i"), ("v", "j")]
    long = "x" * 300_000
    rows = rows_of(write(tmp_path, HEAD + f'u,i,"{long}"\nv,j,{long}\n'))
    assert rows == [("u", "i", long), ("v", "j", long)]


def test_an_unfinished_row_is_read_over_the_batches_of_the_lines(tmp_path):
    text = "\n".join(f"line {k}" for k in range(5000))
    rows = [("u", "i", text), *((f"u{k}", "i", "t") for k in range(50_000)), ("v", "j", text)]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    assert rows_of(write(tmp_path, HEAD + buffer.getvalue())) == rows


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_stray_quotes_are_read_in_packed_files_too(tmp_path, pack):
    name = "a.csv" if pack is bytes else "a.csv.gz"
    path = write(tmp_path, pack((HEAD + inch_marks({5})).encode()), name)
    assert len(read_interactions(path)) == 1000


WELL_FORMED = st.lists(
    st.tuples(*[st.text(st.sampled_from('ab",;\n|'), max_size=6)] * 3), min_size=1, max_size=8
)


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(WELL_FORMED, st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
def test_what_csv_writes_is_read_back(tmp_path_factory, rows, quoting):
    rows = [(f"u{first}", *rest) for first, *rest in rows]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n", quoting=quoting).writerows(rows)
    path = write(tmp_path_factory.mktemp("csv"), HEAD + buffer.getvalue())
    try:
        read = rows_of(path)
    except DataError as error:
        assert "looks like a row" in str(error)  # noqa: PT017 - only this may be refused
        return
    assert [tuple(value or "" for value in row) for row in read] == rows


@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@given(st.text(st.sampled_from('ab",\n'), max_size=40))
def test_any_text_is_read_as_by_csv_or_refused(tmp_path_factory, text):
    path = write(tmp_path_factory.mktemp("csv"), "x,y\n" + text)
    try:
        read = rows_of(path)
    except DataError:
        return
    read = [row for row in read if any(row)]
    expected = [row for row in csv.reader(io.StringIO(text, newline="")) if any(row)]
    surplus = expected and len(expected[0]) == 3
    assert [[value or "" for value in row] for row in read] == [
        row[:2] if surplus else row for row in expected
    ]


@pytest.mark.parametrize("line", ['u,i,"a,b"', 'u,i,6" nails'])
def test_rows_that_the_parser_loses_are_missed(tmp_path, line):
    path = write(tmp_path, HEAD + f"{line}\n" * 20_000)
    table = open_delimited(LogFile(path), ",")
    assert table.n_rows == table.frame.select(pl.len()).collect().item() == 20_000
    fewer = dataclasses.replace(table, frame=table.frame.head(19_999))
    with pytest.raises(DataError, match=r"a\.csv: 19,999 rows were read, but .* has 20,000"):
        LogReader(fewer, {}, (), ()).read(pl.LazyFrame.collect)
