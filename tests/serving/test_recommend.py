"""Lists against a naive oracle: score everything, drop what was taken, sort."""

import numpy as np
import polars as pl
import pytest
import torch

from recoach.data.batches import histories, user_queries
from recoach.data.ingest import read_interactions
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError, DataError
from recoach.models.registry import MODELS
from recoach.serving import recommend as serving
from recoach.serving.recommend import recommend


@pytest.fixture(scope="module")
def model(dataset, build):
    return build("sasrec", dataset)


def oracle(model, dataset, user):
    """Return all items not taken, best first, with their scores."""
    past = histories(dataset, "future")
    length = model.history_length or 50
    queries = user_queries(past, np.array([user]), length, model.n_items, mask_seen=False)
    with torch.no_grad():
        vectors, items = model.embed(queries)
    scores = (vectors @ items.T)[0].detach()
    taken = set(past.row(user).tolist())
    order = [int(item) for item in scores.argsort(descending=True, stable=True)]
    return [(dataset.item_ids[i], float(scores[i])) for i in order if i not in taken]


@pytest.mark.parametrize("name", MODELS)
def test_lists_are_the_best_of_what_was_not_taken(dataset, name, build):
    model = build(name, dataset)
    frame = recommend(model, dataset, ["u4", "u20"], k=5)
    for user in ("u4", "u20"):
        number = dataset.user_ids.to_list().index(user)
        expected = oracle(model, dataset, number)
        mine = frame.filter(pl.col("user_id") == user)
        assert mine["rank"].to_list() == [1, 2, 3, 4, 5]
        assert mine["score"].to_list() == pytest.approx([s for _, s in expected[:5]], abs=1e-5)
        scores = dict(expected)
        for item, score in mine.select("item_id", "score").iter_rows():
            assert scores[item] == pytest.approx(score, abs=1e-5)  # ties may change places


def test_all_of_a_history_counts_the_test_item_too(dataset, model):
    frame = recommend(model, dataset, k=20)
    assert frame.height == 30 * (20 - 7)
    past = histories(dataset, "future")
    for number, user in enumerate(dataset.user_ids):
        taken = {dataset.item_ids[int(i)] for i in past.row(number)}
        assert len(taken) == 7
        assert not taken & set(frame.filter(pl.col("user_id") == user)["item_id"])


def test_seen_items_may_be_asked_for(dataset, model):
    frame = recommend(model, dataset, ["u1"], k=50, exclude_seen=False)
    assert sorted(frame["item_id"]) == sorted(dataset.item_ids)


@pytest.mark.parametrize("name", ["sasrec", "popularity"])
def test_a_new_user_with_the_history_of_a_known_one_gets_the_same_list(dataset, name, build):
    model = build(name, dataset)
    past = histories(dataset, "future")
    history = [dataset.item_ids[int(i)] for i in past.row(3)]
    known = recommend(model, dataset, [dataset.user_ids[3]], k=6)
    new = recommend(model, dataset, {"stranger": ["no such item", *history]}, k=6)
    assert new["item_id"].to_list() == known["item_id"].to_list()
    assert new["score"].to_list() == known["score"].to_list()
    assert set(new["user_id"]) == {"stranger"}


@pytest.mark.parametrize("name", MODELS)
def test_a_new_user_is_not_taken_for_the_first_or_last_known_one(dataset, name, build):
    model = build(name, dataset)
    one = recommend(model, dataset, {"a": ["i0", "i1"]}, k=4)
    both = recommend(model, dataset, {"b": ["i7"], "a": ["i0", "i1"]}, k=4)
    assert both["user_id"].to_list() == ["b"] * 4 + ["a"] * 4
    assert both.tail(4)["item_id"].to_list() == one["item_id"].to_list()
    assert not {"i0", "i1"} & set(one["item_id"])


def test_a_long_list_of_users_is_cut_up_without_a_trace(dataset, model, monkeypatch):
    whole = recommend(model, dataset, k=5)
    monkeypatch.setattr(serving, "_AT_ONCE", 7)
    parts = recommend(model, dataset, k=5)
    assert parts.drop("score").equals(whole.drop("score"))
    assert parts["score"].to_list() == pytest.approx(whole["score"].to_list(), abs=1e-6)


def test_nobody_gets_an_empty_frame_of_the_same_shape(dataset, model):
    empty = recommend(model, dataset, [])
    assert empty.schema == recommend(model, dataset, ["u1"]).schema
    assert empty.height == recommend(model, dataset, {}).height == 0


def test_the_order_asked_for_is_the_order_given(dataset, model):
    frame = recommend(model, dataset, ["u9", "u2", "u9"], k=1)
    assert frame["user_id"].to_list() == ["u9", "u2", "u9"]


def test_the_model_is_left_as_it_was(dataset, build):
    model = build("sasrec", dataset).train()
    first = recommend(model, dataset, ["u1"])
    assert model.training
    assert first.equals(recommend(model.eval(), dataset, ["u1"]))
    assert not model.training


def test_integers_are_the_ids_of_the_log_not_its_numbers(build):
    frame = pl.DataFrame({"user": [7] * 3 + [3] * 3, "item": [5, 6, 8, 8, 9, 5]})
    dataset = leave_last_out(read_interactions(frame))
    lists = recommend(build("popularity", dataset), dataset, [7], k=3)
    assert lists["user_id"].to_list() == ["7"]
    assert lists["item_id"].to_list() == ["9"]


@pytest.mark.parametrize("k", [0, -1])
def test_a_list_has_at_least_one_place(dataset, model, k):
    with pytest.raises(ConfigError, match=f"at least 1, not {k}"):
        recommend(model, dataset, k=k)


def test_an_unknown_user_is_named(dataset, model):
    with pytest.raises(DataError, match=r"'nobody' is not in small \(1 of 2"):
        recommend(model, dataset, ["u1", "nobody"])


@pytest.mark.parametrize("history", [[], ["novel"]])
def test_a_new_user_without_a_known_item_is_named(dataset, model, history):
    with pytest.raises(DataError, match="'b' is in the catalogue of small"):
        recommend(model, dataset, {"a": ["i1"], "b": history})


def test_candidates_bound_the_choice_and_change_no_score(dataset, model):
    wanted = ["i3", "i11", "no such item", "i7", "i3"]
    few = recommend(model, dataset, ["u4", "u20"], k=20, candidates=wanted)
    whole = recommend(model, dataset, ["u4", "u20"], k=20)
    expected = whole.filter(pl.col("item_id").is_in(wanted))
    assert few.drop("rank", "score").equals(expected.drop("rank", "score"))
    assert few["score"].to_list() == pytest.approx(expected["score"].to_list(), abs=1e-6)
    shown = recommend(model, dataset, ["u4"], k=20, candidates=wanted, exclude_seen=False)
    assert sorted(shown["item_id"]) == ["i11", "i3", "i7"]


def test_candidates_that_nobody_knows_are_refused(dataset, model):
    with pytest.raises(DataError, match="None of the 2 candidates"):
        recommend(model, dataset, ["u4"], candidates=["x", "y"])
