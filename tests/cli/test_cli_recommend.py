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


def test_an_empty_user_file_gives_no_recommendations(lists, tmp_path):
    (tmp_path / "users.txt").write_text("\n")
    assert lists("--users", tmp_path / "users.txt").height == 0


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


def test_the_stage_option_selects_the_model(lists):
    base, tuned, default = (
        lists("--users", "u3", *more)["score"].to_list()
        for more in (["--stage", "base"], ["--stage", "tuned"], [])
    )
    assert base != tuned
    assert default == tuned


@pytest.mark.parametrize(
    ("name", "read"),
    [("a.parquet", pl.read_parquet), ("a.csv", pl.read_csv), ("a.jsonl", pl.read_ndjson)],
)
def test_the_suffix_selects_the_output_format(recoach, finished, lists, tmp_path, name, read):
    arguments = ["--users", "u1", "u2", "--k", 3]
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
    "k": (["--users", "u1", "--k", "0"], ["k must be at least 1, not 0"]),
    "ending": (["--users", "u1", "--output", "{tmp}/a.xlsx"], [".parquet, .csv or .jsonl"]),
    "no known item": (["--histories", "{tmp}/none.csv"], ["'stranger'", "catalogue"]),
    "no histories": (["--histories", "{tmp}/gone.csv"], ["no such file", "gone.csv"]),
    "both": (["--users", "u1", "--histories", "{tmp}/none.csv"], ["cannot be combined"]),
}


@pytest.mark.parametrize("case", BAD)
def test_invalid_requests_are_refused(recoach, finished, tmp_path, case):
    (tmp_path / "none.csv").write_text("user_id,item_id\nstranger,novel\n")
    arguments, words = BAD[case]
    result = recoach("recommend", finished, *(text.format(tmp=tmp_path) for text in arguments))
    assert result.code == 2
    assert result.err.startswith("Error: ")
    assert result.err.count("\n") == 1
    for word in words:
        assert word in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["none.csv"]


def test_a_stage_that_is_not_trained_is_refused(recoach, log, tmp_path):
    path = tmp_path / "run"
    assert recoach("pretrain", log, "--output", path, "--model", "popularity").code == 0
    result = recoach("recommend", path, "--stage", "tuned")
    assert result.code == 2
    assert "has no tuned model yet" in result.err
