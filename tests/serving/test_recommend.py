"""`recommend` against a naive ranking: score all items, remove seen ones, sort."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from recoach.data.dataset import RaggedArray
from recoach.data.ingest import read_interactions
from recoach.data.queries import histories, user_queries
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError, DataError
from recoach.models.registry import MODELS
from recoach.serving import recommend as serving
from recoach.serving.recommend import recommend


@pytest.fixture(scope="module")
def model(dataset, build):
    return build("sasrec", dataset)


def naive_ranking(model, dataset, user):
    """Return all unseen items of a user with their scores, best first."""
    past = histories(dataset, "all")
    length = model.history_length or 50
    queries = user_queries(past, np.array([user]), length, model.n_items, mask_seen=False)
    with torch.no_grad():
        scores = model.score(queries)[0]
    seen = set(past.row(user).tolist())
    order = [int(item) for item in scores.argsort(descending=True, stable=True)]
    return [(dataset.item_ids[i], float(scores[i])) for i in order if i not in seen]


@pytest.mark.parametrize("name", MODELS)
def test_lists_hold_the_best_unseen_items(dataset, name, build):
    model = build(name, dataset)
    frame = recommend(model, dataset, ["u4", "u20"], k=5)
    for user in ("u4", "u20"):
        user_index = dataset.user_ids.to_list().index(user)
        expected = naive_ranking(model, dataset, user_index)
        rows = frame.filter(pl.col("user_id") == user)
        assert rows["rank"].to_list() == [1, 2, 3, 4, 5]
        assert rows["score"].to_list() == pytest.approx([s for _, s in expected[:5]], abs=1e-5)
        scores = dict(expected)
        for item, score in rows.select("item_id", "score").iter_rows():
            assert scores[item] == pytest.approx(score, abs=1e-5)  # ties may change places


def test_the_test_item_belongs_to_the_history(dataset, model):
    frame = recommend(model, dataset, k=20)
    assert frame.height == 30 * (20 - 7)
    past = histories(dataset, "all")
    for row, user in enumerate(dataset.user_ids):
        seen = {dataset.item_ids[int(i)] for i in past.row(row)}
        assert len(seen) == 7
        assert not seen & set(frame.filter(pl.col("user_id") == user)["item_id"])


def test_seen_items_can_be_included(dataset, model):
    frame = recommend(model, dataset, ["u1"], k=50, exclude_seen=False)
    assert sorted(frame["item_id"]) == sorted(dataset.item_ids)


@pytest.mark.parametrize("name", ["sasrec", "popularity"])
def test_a_new_user_with_the_history_of_a_known_one_gets_the_same_list(dataset, name, build):
    model = build(name, dataset)
    past = histories(dataset, "all")
    history = [dataset.item_ids[int(i)] for i in past.row(3)]
    known = recommend(model, dataset, [dataset.user_ids[3]], k=6)
    new = recommend(model, dataset, {"stranger": ["no such item", *history]}, k=6)
    assert new["item_id"].to_list() == known["item_id"].to_list()
    assert new["score"].to_list() == known["score"].to_list()
    assert set(new["user_id"]) == {"stranger"}


@pytest.mark.parametrize("name", MODELS)
def test_lists_of_new_users_do_not_depend_on_each_other(dataset, name, build):
    model = build(name, dataset)
    one = recommend(model, dataset, {"a": ["i0", "i1"]}, k=4)
    both = recommend(model, dataset, {"b": ["i7"], "a": ["i0", "i1"]}, k=4)
    assert both["user_id"].to_list() == ["b"] * 4 + ["a"] * 4
    assert both.tail(4)["item_id"].to_list() == one["item_id"].to_list()
    assert not {"i0", "i1"} & set(one["item_id"])


def test_batches_of_users_give_the_same_lists_as_one_call(dataset, model, monkeypatch):
    one_batch = recommend(model, dataset, k=5)
    monkeypatch.setattr(serving, "_BATCH_SIZE", 7)
    batches = recommend(model, dataset, k=5)
    assert batches.drop("score").equals(one_batch.drop("score"))
    assert batches["score"].to_list() == pytest.approx(one_batch["score"].to_list(), abs=1e-6)


def test_no_users_give_an_empty_frame_with_the_same_schema(dataset, model):
    empty = recommend(model, dataset, [])
    assert empty.schema == recommend(model, dataset, ["u1"]).schema
    assert empty.height == recommend(model, dataset, {}).height == 0


def test_lists_are_in_the_order_of_the_users_argument(dataset, model):
    frame = recommend(model, dataset, ["u9", "u2", "u9"], k=1)
    assert frame["user_id"].to_list() == ["u9", "u2", "u9"]


def test_the_training_mode_of_the_model_is_restored(dataset, build):
    model = build("sasrec", dataset).train()
    first = recommend(model, dataset, ["u1"])
    assert model.training
    assert first.equals(recommend(model.eval(), dataset, ["u1"]))
    assert not model.training


def test_integer_ids_are_ids_and_not_indices(build):
    frame = pl.DataFrame({"user": [7] * 3 + [3] * 3, "item": [5, 6, 8, 8, 9, 5]})
    dataset = leave_last_out(read_interactions(frame))
    lists = recommend(build("popularity", dataset), dataset, [7], k=3)
    assert lists["user_id"].to_list() == [7]
    assert lists["item_id"].to_list() == [9]


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_rejected(dataset, model, k):
    with pytest.raises(ConfigError, match=f"at least 1, not {k}"):
        recommend(model, dataset, k=k)


def test_the_error_names_an_unknown_user(dataset, model):
    with pytest.raises(DataError, match=r"'nobody' is not in small \(1 of 2"):
        recommend(model, dataset, ["u1", "nobody"])


@pytest.mark.parametrize("history", [[], ["novel"]])
def test_the_error_names_a_new_user_without_known_items(dataset, model, history):
    with pytest.raises(DataError, match="'b' is in the catalogue of small"):
        recommend(model, dataset, {"a": ["i1"], "b": history})


def test_candidates_restrict_the_lists_and_keep_the_scores(dataset, model):
    candidates = ["i3", "i11", "no such item", "i7", "i3"]
    restricted = recommend(model, dataset, ["u4", "u20"], k=20, candidates=candidates)
    full = recommend(model, dataset, ["u4", "u20"], k=20)
    expected = full.filter(pl.col("item_id").is_in(candidates))
    assert restricted.drop("rank", "score").equals(expected.drop("rank", "score"))
    assert restricted["score"].to_list() == pytest.approx(expected["score"].to_list(), abs=1e-6)
    with_seen = recommend(model, dataset, ["u4"], k=20, candidates=candidates, exclude_seen=False)
    assert sorted(with_seen["item_id"]) == ["i11", "i3", "i7"]


def test_unknown_candidates_are_rejected(dataset, model):
    with pytest.raises(DataError, match="None of the 2 candidates"):
        recommend(model, dataset, ["u4"], candidates=["x", "y"])


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_rejected_items_are_never_recommended(dataset, model, exclude_seen):
    users = dataset.user_ids[:3].to_list()
    before = recommend(model, dataset, users=users, k=5, exclude_seen=exclude_seen)
    rejected = before.filter(pl.col("user_id") == users[1])["item_id"][:2].to_list()
    items = np.array([dataset.item_ids.to_list().index(item) for item in rejected], dtype=np.int32)
    lengths = np.zeros(dataset.n_users, dtype=np.int64)
    lengths[1] = 2
    columns = {"after": pl.Series([0, 0])}
    negatives = RaggedArray.from_lengths(lengths, items, columns)
    after = recommend(
        model, replace(dataset, negatives=negatives), users=users, k=5, exclude_seen=exclude_seen
    )
    for user in (users[0], users[2]):
        kept, same = (frame.filter(pl.col("user_id") == user) for frame in (before, after))
        assert kept["item_id"].to_list() == same["item_id"].to_list()
    shown = after.filter(pl.col("user_id") == users[1])["item_id"].to_list()
    assert not set(shown) & set(rejected)
    assert shown[:3] == before.filter(pl.col("user_id") == users[1])["item_id"].to_list()[2:]
