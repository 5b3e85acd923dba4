"""`recoach recommend`: lists for users the run knows and for new ones, ids as in the log."""

import polars as pl
import pytest


@pytest.fixture
def lists(recoach, finished, tmp_path):
    """Return a function that asks for lists and reads them back."""

    def ask(*arguments):
        output = tmp_path / "asked.parquet"
        said = recoach("recommend", finished, *arguments, "--output", output)
        assert said.code == 0, said
        return pl.read_parquet(output)

    return ask


def taken(log, user):
    return set(pl.read_csv(log).filter(pl.col("user_id") == user)["item_id"])


def test_known_users_get_k_items_they_have_not_taken(lists, log):
    frame = lists("--users", "u3", "u140", "--k", 4)
    assert frame.columns == ["user_id", "rank", "item_id", "score"]
    assert frame["user_id"].to_list() == ["u3"] * 4 + ["u140"] * 4
    assert frame["rank"].to_list() == [1, 2, 3, 4] * 2
    for user in ("u3", "u140"):
        mine = frame.filter(pl.col("user_id") == user)
        assert mine["score"].is_sorted(descending=True)
        assert not set(mine["item_id"]) & taken(log, user)
        assert set(mine["item_id"]) <= {f"i{n}" for n in range(40)}


def test_everybody_is_asked_for_by_naming_nobody(lists, log):
    frame = lists("--k", 2)
    assert frame.height == 300
    assert set(frame["user_id"]) == set(pl.read_csv(log)["user_id"])


def test_a_list_longer_than_the_catalogue_holds_what_there_is(lists, log):
    assert lists("--users", "u5", "--k", 999).height == 40 - len(taken(log, "u5"))
    everything = lists("--users", "u5", "--k", 999, "--no-exclude-seen")
    assert everything.height == everything["item_id"].n_unique() == 40


def test_users_may_stand_in_a_file(lists, tmp_path):
    (tmp_path / "who.txt").write_text("u7\n\n  u8 \n")
    assert lists("--users", tmp_path / "who.txt", "--k", 1)["user_id"].to_list() == ["u7", "u8"]
    mixed = lists("--users", "u9", tmp_path / "who.txt", "--k", 1)
    assert mixed["user_id"].to_list() == ["u9", "u7", "u8"]


def test_a_file_of_nobody_gives_an_empty_list(lists, tmp_path):
    (tmp_path / "who.txt").write_text("\n")
    assert lists("--users", tmp_path / "who.txt").height == 0


def test_new_users_come_with_their_histories(lists, log, tmp_path):
    rows = pl.read_csv(log).filter(pl.col("user_id") == "u3")
    unknown = pl.DataFrame({"user_id": ["u3"], "item_id": ["novel"], "timestamp": [1]})
    shuffled = pl.concat([rows.reverse(), unknown])
    shuffled.with_columns(pl.lit("stranger").alias("user_id")).write_csv(tmp_path / "new.csv")
    new = lists("--histories", tmp_path / "new.csv", "--k", 5)
    known = lists("--users", "u3", "--k", 5)
    assert new["user_id"].to_list() == ["stranger"] * 5
    assert new["item_id"].to_list() == known["item_id"].to_list()
    assert new["score"].to_list() == pytest.approx(known["score"].to_list(), abs=1e-6)


def test_the_stage_asked_for_is_the_one_that_answers(lists):
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
def test_the_ending_decides_the_format(recoach, finished, lists, tmp_path, name, read):
    asked = ["--users", "u1", "u2", "--k", 3]
    said = recoach("recommend", finished, *asked, "--output", tmp_path / name)
    assert said.code == 0
    assert "6 rows of the tuned model" in said.out
    back = read(tmp_path / name)
    assert back.select("user_id", "item_id").equals(lists(*asked).select("user_id", "item_id"))
    assert back["score"].to_list() == pytest.approx(lists(*asked)["score"].to_list(), abs=1e-5)


def test_lists_are_printed_where_no_output_is_named(recoach, finished):
    said = recoach("recommend", finished, "--users", "u1", "--k", 2)
    assert "│ u1 │ 1 │ i" in said.out
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
def test_what_cannot_be_answered_is_said(recoach, finished, tmp_path, case):
    (tmp_path / "none.csv").write_text("user_id,item_id\nstranger,novel\n")
    arguments, words = BAD[case]
    said = recoach("recommend", finished, *(text.format(tmp=tmp_path) for text in arguments))
    assert said.code == 2
    assert said.err.startswith("Error: ")
    assert said.err.count("\n") == 1
    for word in words:
        assert word in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["none.csv"]


def test_a_stage_that_was_not_trained_is_said(recoach, log, tmp_path):
    path = tmp_path / "run"
    assert recoach("pretrain", log, "--output", path, "--model", "popularity").code == 0
    said = recoach("recommend", path, "--stage", "tuned")
    assert said.code == 2
    assert "has no tuned model yet" in said.err
