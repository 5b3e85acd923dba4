"""Numbers and empty values on the command line: every option that takes one, in every command."""

import pytest

WHOLE = {
    "recommend b --k": 1,
    "data describe log.csv --k-core": 0,
    "data prepare log.csv --output p --k-core": 0,
    "data prepare log.csv --output p --test-items": 1,
    "search --trials": 1,
    "serve b --port": 0,
    "reproduce table1 --seeds": 1,
    "reproduce table1 --k-core": 0,
}
DECIMAL = [
    "data describe log.csv --min-rating",
    "data prepare log.csv --output p --min-rating",
    "serve b --reload-seconds",
]
NO_WHOLE_NUMBER = ["2.5", "2.0", "1_000", "0x10", "1e3", "nan", "inf", "three", "٣", "--", "1,5"]
NO_DECIMAL = ["nan", "inf", "-inf", "1_0", "1,5", "0x1p3", "1e999", "much", "٣.٥"]


def refused(recoach, command, value):
    *arguments, option = command.split()
    result = recoach(*arguments, f"{option}={value}")
    assert result.code == 2, result
    assert result.err.startswith("Error: "), result.err
    assert result.err.count("\n") == 1
    return option, result.err


@pytest.mark.parametrize("command", WHOLE)
def test_a_whole_number_is_read_as_written_or_refused(recoach, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    lowest = WHOLE[command]
    for value in NO_WHOLE_NUMBER:
        option, message = refused(recoach, command, value)
        assert f"{option} must be a whole number of at least {lowest}, not {value!r}" in message
    for value in (lowest - 1, -7):
        option, message = refused(recoach, command, value)
        assert f"{option} must be at least {lowest}, not {value}." in message
    option, message = refused(recoach, command, 10**20)
    assert f"{option} must be at most " in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", DECIMAL)
def test_a_number_is_finite(recoach, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for value in NO_DECIMAL:
        option, message = refused(recoach, command, value)
        assert f"{option} must be a finite number, not {value!r}." in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "threshold"), [("3", 3), ("3.", 3), (".5e1", 5), ("+3.5", 3.5), ("-1", -1)]
)
def test_a_decimal_number_is_read_as_written(recoach, tmp_path, text, threshold):
    ratings = [(f"u{n}", f"i{n}", str(n)) for n in range(-3, 9)]
    lines = [("user_id", "item_id", "rating"), *ratings]
    (tmp_path / "log.csv").write_text("\n".join(map(",".join, lines)) + "\n")
    result = recoach("data", "describe", tmp_path / "log.csv", f"--min-rating={text}")
    kept = sum(n >= threshold for n in range(-3, 9))
    assert f"│ {kept} │ {kept} │ {kept} │" in result.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["recommend", "b", "--output", ""],
        ["recommend", "b", "--output="],
        ["recommend", "b", "--users", "u1", ""],
        ["recommend", "b", "--histories", " "],
        ["pretrain", "log.csv", "--output", ""],
        ["data", "prepare", "log.csv", "--output", ""],
        ["compare", "b", "--metrics", ""],
    ],
)
def test_an_empty_value_names_its_option(recoach, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    result = recoach(*arguments)
    option = next(text for text in arguments if text.startswith("--")).rstrip("=")
    assert result.code == 2
    assert result.err == (
        f"Error: {option}: a value is empty. Give a value, or leave the option out.\n"
    )
    assert not list(tmp_path.iterdir())


def test_an_empty_first_argument_is_refused(recoach, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "a value is empty" in recoach("pretrain", "", "--output", "b").err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["recommend", "b", "--k", "3", "--k", "4"], "--k"),
        (["recommend", "b", "--output", "a.csv", "--output", "b.csv"], "--output"),
        (["pretrain", "log.csv", "--output", "a", "--output", "b"], "--output"),
        (["data", "prepare", "log.csv", "--k-core", "3", "--output", "a", "--k-core", "4"], "--k-"),
        (["recommend", "b", "--users"], "--users"),
        (["pretrain", "log.csv", "--output", "a", "--set"], "--set"),
        (["compare", "b", "--metrics", "--format", "latex"], "--metrics"),
        (["data", "describe", "log.csv", "--column"], "--column"),
        (["search", "--vary"], "--vary"),
        (["recommend", "b", "--k"], "--k"),
        (["recommend", "b", "--stage", "best"], "--stage"),
    ],
)
def test_an_option_that_is_repeated_or_has_no_value_is_named(
    recoach, tmp_path, monkeypatch, arguments, option
):
    monkeypatch.chdir(tmp_path)
    result = recoach(*arguments)
    assert result.code == 2
    assert result.err.startswith("Error: ")
    assert option in result.err
    assert not list(tmp_path.iterdir())


def test_a_column_that_is_given_twice_is_refused(recoach, tmp_path):
    (tmp_path / "log.csv").write_text("a,b,c\n1,2,3\n")
    names = ["--column", "user_id=a", "item_id=b", "user_id=c"]
    result = recoach("data", "describe", tmp_path / "log.csv", *names)
    assert result.code == 2
    assert "--column gives user_id twice: 'a' and 'c'." in result.err
