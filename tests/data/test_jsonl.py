"""JSON Lines: every object is a row, every key a column, and one kind of value an id."""

import json

import pytest

from recoach.data.ingest import read_interactions
from recoach.data.readers.registry import open_table
from recoach.errors import DataError


def write(tmp_path, *lines, name="a.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def columns_of(path):
    return open_table(path, "jsonl", bool).names


def pairs_of(path):
    return read_interactions(path).frame().select("user_id", "item_id").rows()


def test_keys_of_later_lines_are_columns(tmp_path):
    first = '{"user_id": "a", "item_id": "x"}'
    for later in (
        '{"user_id": "a", "item_id": "y", "rating": 3}',
        '{"rating": 3, "item_id": "y", "user_id": "a"}',
        '{"user_id": "a", "nested": {"k": [1, "}"]}, "item_id": "y", "rating" : 3}',
        r'{"user_id": "a", "text": "say \"k\": 1", "item_id": "y", "rating": 3}',
        r'{"user_id": "a", "item_id": "y", "\u0072ating": 3}',
    ):
        path = write(tmp_path, *[first] * 50, later)
        assert set(columns_of(path)) - {"nested", "text"} == {"user_id", "item_id", "rating"}
        table = open_table(path, "jsonl", bool)
        assert table.frame.collect()["rating"].to_list() == [None] * 50 + ["3"]


def test_keys_of_nested_objects_and_of_text_are_no_columns(tmp_path):
    path = write(
        tmp_path,
        '{"user_id": "a", "item_id": "x"}',
        r'{"user_id": "a", "item_id": "y", "t": "\"rating\": 1, ", "o": {"timestamp": 5}}',
        '{"user_id": "a", "item_id": "z", "score": null}',
    )
    assert set(columns_of(path)) == {"user_id", "item_id", "t", "o"}
    assert pairs_of(path) == [("a", "x"), ("a", "y"), ("a", "z")]


def test_ids_that_the_first_line_lacks_are_found_missing_there(tmp_path):
    path = write(tmp_path, '{"session": 1}', '{"user_id": "a", "item_id": "x"}')
    with pytest.raises(DataError, match=r"a\.jsonl:1: column user_id is empty"):
        read_interactions(path)


@pytest.mark.parametrize("key", ["user.id", "us er", "us*er", 'us"er', "us\\er", "usér", "$user"])
def test_any_key_is_a_column(tmp_path, key):
    lines = [json.dumps({key: f"u{k}", "item_id": k}) for k in range(3)]
    log = read_interactions(write(tmp_path, *lines), columns={"user_id": key})
    assert log.user_ids.to_list() == ["u0", "u1", "u2"]


def test_a_key_with_two_values_is_refused_where_it_is_used(tmp_path):
    good = '{"user_id": "a", "item_id": "x"}'
    for bad in (
        '{"user_id": "a", "item_id": "y", "item_id": "z"}',
        '{"item_id": "y", "user_id": "a", "item_id" : null}',
    ):
        with pytest.raises(DataError, match=r"a\.jsonl:2: the key 'item_id' occurs twice"):
            read_interactions(write(tmp_path, good, bad))
    for harmless in (
        '{"user_id": "a", "item_id": "y", "item_id": "y"}',
        '{"user_id": "a", "item_id": "y", "t": 1, "t": 2}',
        '{"user_id": "a", "item_id": "y", "t": {"item_id": 2, "user_id": 3}}',
        r'{"user_id": "a", "item_id": "y", "t": "\"item_id\": 1"}',
    ):
        assert pairs_of(write(tmp_path, good, harmless)) == [("a", "x"), ("a", "y")]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (['[{"user": "a", "item": "x"}, {"user": "b", "item": "y"}]'], ":1: the file is a JSON a"),
        (["[", '{"user": "a", "item": "x"}', "]"], ":1: the file is a JSON array. Write one obj"),
        (["{", '"user": "a",', '"item": "x"', "}"], ":1: the line is not a JSON object"),
        (['{"user": "a", "item": "x"},'], ":1: the line is not a JSON object"),
        (['{"user": "a", "item": "x"}', '{"user": "a"'], ":2: the line is not a JSON object"),
        (['{"user": "a", "item": "x"}', "null"], ":2: the line is not a JSON object"),
        (['{"user": "a", "item": "x"} {"user": "a", "item": "x"}'], ":1: the line is not a JSON"),
        (['{"user": "a", "item": "x"}', '{"user": "b"}'], r":2: column item \(item_id\) is empty"),
        (['{"user": "a", "item": "x"}', "{}"], r":2: column user \(user_id\) is empty"),
        (['{"user": null, "item": "x"}'], r":1: column user \(user_id\) is empty"),
        (['{"user": "a", "item": "x", "t": NaN}'], ":1: the line holds NaN, which is not in JSON"),
        (
            ['{"user": {"id": 1}, "item": "x"}'],
            r""":1: column user .*'{"id": 1}', a list or an object""",
        ),
        (['{"user": "a", "item": "x"}', '{"user": ["a"], "item": "x"}'], r":2: user is \['a'\]"),
        (['{"user": 1, "item": "x"}', '{"user": [1], "item": "x"}'] * 2, r":2: user is \[1\], wh"),
        (['{"user": "\\ud83d", "item": "x"}'], r":1: column user .* damaged text"),
        (['{"user": true, "item": "x"}'], ":1: column user .*'true', true or false"),
        (['{"user": 1, "item": "x"}', '{"user": "1", "item": "x"}'], ":2: user is '1', but 1 in"),
        (['{"user": ["a", "b"], "item": ["x", "y"]}'], r""":1: column user .*a list or an obj"""),
    ],
)
def test_what_is_no_row_is_refused_with_its_line(tmp_path, lines, problem):
    with pytest.raises(DataError, match=rf"a\.jsonl{problem}"):
        read_interactions(write(tmp_path, *lines))


def test_blank_lines_are_no_rows_and_count_as_lines(tmp_path):
    path = write(tmp_path, '{"user": 1, "item": 2}', "", "  ", '{"item": 3, "user": 1}', "", "")
    assert pairs_of(path) == [("1", "2"), ("1", "3")]
    assert open_table(path, "jsonl", bool).locate(1) == "a.jsonl:4"


def test_whole_numbers_of_any_size_are_ids_as_they_are_written(tmp_path):
    numbers = [2**53 + 1, 2**64, 12345678901234567890123, 12345678901234567890124, 0]
    lines = [json.dumps({"user": number, "item": "x"}) for number in numbers]
    assert [user for user, _ in pairs_of(write(tmp_path, *lines))] == [str(n) for n in numbers]
