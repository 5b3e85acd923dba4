"""`recoach recommend`: recommendations for users of the log and for new users."""

import polars as pl
import pytest


@pytest.fixture
def lists(recoach, finished, tmp_path):
    """Return a function that writes recommendations to a file and reads it."""

    def recommend(*arguments):
        output = tmp_path / "lists.parquet"
        result = recoach("recommend", finished, *arguments, "--output", output)
        assert result.code == 0, result
        return pl.read_parquet(output)

    return recommend


def seen_items(log, user):
    return set(pl.read_csv(log).filter(pl.col("user_id") == user)["item_id"])


def test_users_of_the_log_get_k_unseen_items(lists, log):
    frame = lists("--users", "u3", "u140", "--k", 4)
    assert frame.columns == ["user_id", "rank", "item_id", "score"]
    assert frame["user_id"].to_list() == ["u3"] * 4 + ["u140"] * 4
    assert frame["rank"].to_list() == [1, 2, 3, 4] * 2
    for user in ("u3", "u140"):
        rows = frame.filter(pl.col("user_id") == user)
        assert rows["score"].is_sorted(descending=True)
        assert not set(rows["item_id"]) & seen_items(log, user)
        assert set(rows["item_id"]) <= {f"i{n}" for n in range(40)}


def test_without_users_all_users_get_recommendations(lists, log):
    frame = lists("--k", 2)
    assert frame.height == 300
    assert set(frame["user_id"]) == set(pl.read_csv(log)["user_id"])


def test_a_k_above_the_catalogue_size_returns_all_items(lists, log):
    assert lists("--users", "u5", "--k", 999).height == 40 - len(seen_items(log, "u5"))
    everything = lists("--users", "u5", "--k", 999, "--no-exclude-seen")
    assert everything.height == everything["item_id"].n_unique() == 40


def test_users_can_be_read_from_a_file(lists, tmp_path):
    (tmp_path / "users.txt").write_text("u7\n\n  u8 \n")
    assert lists("--users", tmp_path / "users.txt", "--k", 1)["user_id"].to_list() == ["u7", "u8"]
    mixed = lists("--users", "u9", tmp_path / "users.txt", "--k", 1)
    assert mixed["user_id"].to_list() == ["u9", "u7", "u8"]


@pytest.mark.parametrize(
    ("content", "users"),
    [
        ("\ufeffu7\nu8\n", ["u7", "u8"]),
        ("u7\r\n\r\nu8\t \r\n", ["u7", "u8"]),
        ("u8\ru7", ["u8", "u7"]),
        ("u8\nu7\nu8\nu8", ["u8", "u7"]),
    ],
)
def test_a_file_of_users_may_have_marks_blanks_and_repeated_ids(lists, tmp_path, content, users):
    (tmp_path / "users.txt").write_bytes(content.encode())
    frame = lists("--users", tmp_path / "users.txt", "u7", "--k", 1)
    assert frame["user_id"].to_list() == users


def test_new_users_get_recommendations_from_their_histories(lists, log, tmp_path):
    rows = pl.read_csv(log).filter(pl.col("user_id") == "u3")
    unknown = pl.DataFrame({"user_id": ["u3"], "item_id": ["novel"], "timestamp": [1]})
    shuffled = pl.concat([rows.reverse(), unknown])
    shuffled.with_columns(pl.lit("stranger").alias("user_id")).write_csv(tmp_path / "new.csv")
    new = lists("--histories", tmp_path / "new.csv", "--k", 5)
    known = lists("--users", "u3", "--k", 5)
    assert new["user_id"].to_list() == ["stranger"] * 5
    assert new["item_id"].to_list() == known["item_id"].to_list()
    assert new["score"].to_list() == pytest.approx(known["score"].to_list(), abs=1e-6)


def test_the_stage_option_selects_the_model(lists, finished, run_files):
    stages = ("base", "tuned", "control")
    scores = {name: lists("--users", "u3", "--stage", name)["score"].to_list() for name in stages}
    assert scores["base"] != scores["tuned"] != scores["control"]
    default = run_files.results(finished)["served"]
    assert lists("--users", "u3")["score"].to_list() == scores[default]


@pytest.mark.parametrize(
    ("name", "read"),
    [("a.parquet", pl.read_parquet), ("a.csv", pl.read_csv), ("a.jsonl", pl.read_ndjson)],
)
def test_the_suffix_selects_the_output_format(recoach, finished, lists, tmp_path, name, read):
    arguments = ["--users", "u1", "u2", "--k", 3, "--stage", "tuned"]
    result = recoach("recommend", finished, *arguments, "--output", tmp_path / name)
    assert result.code == 0
    assert "6 rows of the tuned model" in result.out
    frame = read(tmp_path / name)
    assert frame.select("user_id", "item_id").equals(lists(*arguments).select("user_id", "item_id"))
    assert frame["score"].to_list() == pytest.approx(lists(*arguments)["score"].to_list(), abs=1e-5)


def test_recommendations_are_printed_without_an_output_file(recoach, finished):
    result = recoach("recommend", finished, "--users", "u1", "--k", 2)
    assert "│ u1 │ 1 │ i" in result.out
    long = recoach("recommend", finished, "--k", 2)
    assert "100 more rows. Write all of them with --output." in long.out


BAD = {
    "unknown user": (["--users", "u1", "nobody"], ["'nobody'", "1 of 2"]),
    "k": (["--users", "u1", "--k", "0"], ["--k must be at least 1, not 0."]),
    "ending": (["--users", "u1", "--output", "{tmp}/a.xlsx"], [".parquet, .csv or .jsonl"]),
    "no known item": (["--histories", "{tmp}/none.csv"], ["'stranger'", "catalogue"]),
    "no histories": (["--histories", "{tmp}/gone.csv"], ["no such file", "gone.csv"]),
    "empty file of users": (["--users", "{tmp}/empty.txt"], ["empty.txt: the file holds no user"]),
    "latin": (["--users", "{tmp}/latin.txt"], ["latin.txt is not UTF-8 text; save the file as"]),
    "utf16": (["--users", "{tmp}/utf16.txt"], ["utf16.txt is not UTF-8 text; save the file as"]),
    "folder": (["--users", "{tmp}/folder.txt"], ["folder.txt: Is a directory"]),
    "missing file": (
        ["--users", "{tmp}/gone.txt"],
        ["--users ", "gone.txt: there is no such file"],
    ),
    "other file": (["--users", "{tmp}/none.csv"], ["--users: ", "files of users end with .txt"]),
    "no users": (["--users", "--k", "3"], ["--users requires at least 1 element"]),
    "unknown file column": (
        ["--histories", "{tmp}/none.csv", "--column", "item_id=sku"],
        ["none.csv", "'sku'"],
    ),
    "column alone": (["--column", "item_id=sku"], ["--column", "belong to --histories"]),
    "both": (["--users", "u1", "--histories", "{tmp}/none.csv"], ["cannot be combined"]),
}


@pytest.mark.parametrize("case", BAD)
def test_invalid_requests_are_refused(recoach, finished, tmp_path, case):
    (tmp_path / "none.csv").write_text("user_id,item_id\nstranger,novel\n")
    (tmp_path / "empty.txt").write_text("\ufeff\n \n")
    (tmp_path / "latin.txt").write_bytes("u1\né".encode("latin-1"))
    (tmp_path / "utf16.txt").write_bytes("u1\nu2\n".encode("utf-16-le"))
    (tmp_path / "folder.txt").mkdir()
    before = sorted(tmp_path.iterdir())
    arguments, words = BAD[case]
    result = recoach("recommend", finished, *(text.format(tmp=tmp_path) for text in arguments))
    assert result.code == 2
    assert result.err.startswith("Error: ")
    assert result.err.count("\n") == 1
    for word in words:
        assert word in result.err
    assert sorted(tmp_path.iterdir()) == before


def test_a_stage_that_is_not_trained_is_refused(recoach, log, tmp_path):
    path = tmp_path / "run"
    assert recoach("pretrain", log, "--output", path, "--model", "popularity").code == 0
    result = recoach("recommend", path, "--stage", "tuned")
    assert result.code == 2
    assert "has no tuned model yet" in result.err


# new users in a log with other column names


@pytest.fixture(scope="module")
def shop_run(recoach, log, tmp_path_factory):
    """Return a run whose log calls users `customer` and items `sku`, and has no header types."""
    folder = tmp_path_factory.mktemp("shop")
    frame = pl.read_csv(log)
    frame.columns = ["customer", "sku", "bought"]
    frame.write_csv(folder / "log.csv")
    names = [f"data.columns.{name}" for name in ("user_id=customer", "item_id=sku")]
    settings = ["pretrain.epochs=1", "model.dim=8", "data.columns.timestamp=bought", *names]
    result = recoach("pretrain", folder / "log.csv", "--output", folder / "b", "--set", *settings)
    assert result.code == 0, result
    return folder / "b"


def write_histories(path, header, rows, separator=","):
    path.write_text("\n".join(separator.join(row) for row in [header, *rows]) + "\n")
    return path


def items_of(recoach, run, *arguments):
    result = recoach("recommend", run, *arguments, "--k", 1)
    assert result.code == 0, result
    cells = [cell.strip() for cell in result.out.split("│")]
    return cells[1:-1:5], result.out


ROWS = [("n1", "i3", "3"), ("n1", "i2", "2"), ("n2", "i9", "1")]


@pytest.mark.parametrize(
    ("header", "more"),
    [
        (("customer", "sku", "bought"), []),
        (("user_id", "item_id", "timestamp"), []),
        (("who", "sku", "bought"), ["--column", "user_id=who"]),
        (("who", "what", "bought"), ["--column", "user_id=who", "item_id=what"]),
    ],
)
def test_new_users_are_read_with_the_columns_of_the_run(recoach, shop_run, tmp_path, header, more):
    file = write_histories(tmp_path / "new.csv", header, ROWS)
    plain = write_histories(tmp_path / "plain.jsonl", (), ())
    plain.write_text(
        "".join(f'{{"user_id":"{u}","item_id":"{i}","timestamp":{t}}}\n' for u, i, t in ROWS)
    )
    users, out = items_of(recoach, shop_run, "--histories", file, *more)
    assert users == ["n1", "n2"]
    assert out == items_of(recoach, shop_run, "--histories", plain)[1]


def test_a_cold_user_does_not_fail_the_others(recoach, shop_run, tmp_path):
    rows = [*ROWS, ("cold", "novel", "1"), ("n1", "unheard", "9"), ("cold", "novel", "2")]
    file = write_histories(tmp_path / "new.csv", ("customer", "sku", "bought"), rows)
    users, out = items_of(recoach, shop_run, "--histories", file)
    assert users == ["n1", "n2"]
    line = (
        "1 of 3 users have no item of the catalogue and get no list; 2 of 5 items are not in the "
        "catalogue."
    )
    assert line in out
    file = write_histories(tmp_path / "new.csv", ("customer", "sku", "bought"), ROWS)
    assert "catalogue" not in items_of(recoach, shop_run, "--histories", file)[1]
