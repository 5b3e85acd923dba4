"""A snapshot gives the lists of `recommend`, whatever else is in the batch."""

from dataclasses import replace

import numpy as np
import pytest

from recoach.data.dataset import RaggedArray
from recoach.errors import DataError
from recoach.evaluation.evaluator import evaluate
from recoach.models.registry import MODELS
from recoach.serving.explanations import compare_models, hold_out
from recoach.serving.recommend import recommend
from recoach.serving.snapshot import ModelSnapshot


def query(snapshot, user=None, history=None, k=5, exclude_seen=True, candidates=None):
    return snapshot.build_query(
        user=user, history=history, k=k, exclude_seen=exclude_seen, candidates=candidates
    )


def item_ids(snapshot, recommendation):
    return [snapshot.item_ids[item] for item in recommendation.items]


@pytest.mark.parametrize("name", MODELS)
def test_a_mixed_batch_equals_single_queries_and_recommend(make_snapshot, name):
    snapshot = make_snapshot(name=name)
    model, candidates = snapshot.models["tuned"], ["i1", "i2", "i3", "i4"]
    queries = [
        query(snapshot, "u3"),
        query(snapshot, "u3", exclude_seen=False, k=20),
        query(snapshot, history=["i5", "unknown", "i6"], k=3),
        query(snapshot, "u9", candidates=candidates),
        query(snapshot, "u8", candidates=candidates, k=1),
    ]
    batch = snapshot.recommend("tuned", queries)
    for one, recommendation in zip(queries, batch, strict=True):
        single = snapshot.recommend("tuned", [one])[0]
        assert single.scores == pytest.approx(recommendation.scores, abs=1e-6)
        if name != "popularity":  # which has many ties
            assert single.items.tolist() == recommendation.items.tolist()
    frames = [
        recommend(model, snapshot.dataset, ["u3"], k=5),
        recommend(model, snapshot.dataset, ["u3"], k=20, exclude_seen=False),
        recommend(model, snapshot.dataset, {"new": ["i5", "i6"]}, k=3),
        recommend(model, snapshot.dataset, ["u9"], k=5, candidates=candidates),
        recommend(model, snapshot.dataset, ["u8"], k=1, candidates=candidates),
    ]
    for recommendation, frame in zip(batch, frames, strict=True):
        assert recommendation.scores == pytest.approx(frame["score"].to_list(), abs=1e-5)
        if name != "popularity":
            assert item_ids(snapshot, recommendation) == frame["item_id"].to_list()


def test_unknown_users_and_items_give_cold_queries(snapshot):
    assert query(snapshot, "nobody").is_cold
    unknown = query(snapshot, history=["x", "y"])
    assert (unknown.is_cold, unknown.skipped) == (True, ("x", "y"))
    known = query(snapshot, history=["x", "i1"])
    assert (known.is_cold, known.skipped) == (False, ("x",))
    with pytest.raises(DataError, match="None of the 1 candidates"):
        query(snapshot, "u3", candidates=["x"])


def test_items_are_found_by_title_or_id_most_popular_first(snapshot):
    matches = snapshot.find_items("TITLE of i1", 20)
    assert {snapshot.item_ids[item] for item in matches} == {
        "i1",
        *(f"i{n}" for n in range(10, 20)),
    }
    counts = snapshot.item_counts[matches]
    assert (np.diff(counts) <= 0).all()
    assert snapshot.find_items("Title of i1", 2) == matches[:2]
    assert snapshot.find_items(".*", 20) == []
    for item, title in enumerate(snapshot.titles):  # a whole title comes before longer ones
        assert snapshot.find_items(title.upper(), 1) == [item]
    assert snapshot.find_users("u1", 3) == ["u1", "u10", "u11"]


def test_the_figures_of_a_comparison_are_correct(snapshot):
    comparison = compare_models(snapshot, query(snapshot, "u3", k=4))
    assert [side.model for side in comparison.sides] == ["base", "tuned"]
    all_items = query(snapshot, "u3", k=20)
    for side, other in zip(comparison.sides, ("tuned", "base"), strict=True):
        ranking = item_ids(snapshot, snapshot.recommend(other, [all_items])[0])
        for item in side.items:
            assert item.other_rank == ranking.index(item.item_id) + 1
            assert item.taken == snapshot.item_counts[snapshot.item_index[item.item_id]]
            assert item.because in comparison.history
            assert item.title == f"Title of {item.item_id}"
    base, tuned = ({item.item_id for item in side.items} for side in comparison.sides)
    assert comparison.words[0] == f"{len(base & tuned)} of 4 items are in both lists."


def test_a_comparison_of_equal_lists_says_so(make_snapshot):
    snapshot = make_snapshot(seed=0)
    assert compare_models(snapshot, query(snapshot, "u3")).words == [
        "Both lists contain the same items in the same order."
    ]


def test_held_out_items_are_ranked_after_the_history_of_the_test(snapshot):
    whole = query(snapshot, "u3", k=20)
    *before, last = whole.history.tolist()
    without, held_out = hold_out(snapshot, "u3", whole)
    assert (without.history.tolist(), held_out.tolist()) == (before, [last])
    comparison = compare_models(snapshot, without, held_out)
    (item,) = comparison.held_out
    assert item.item_id == snapshot.item_ids[last]
    evaluated = [evaluate(model, snapshot.dataset) for model in snapshot.models.values()]
    assert item.ranks == [int(e.ranks[list(e.users).index(whole.user)]) for e in evaluated]
    for side, rank in zip(comparison.sides, item.ranks, strict=True):
        assert [row.rank for row in side.items if row.held_out] == [rank]
    assert compare_models(snapshot, whole).held_out == []


def test_a_held_out_item_of_the_history_has_no_rank_where_the_history_is_excluded(snapshot):
    whole = query(snapshot, "u3")
    repeated = whole._replace(history=np.append(whole.history, whole.history[-1]))
    comparison = compare_models(snapshot, repeated, whole.history[-1:])
    assert [item.ranks for item in comparison.held_out] == [[]]


def test_a_random_user_has_training_and_test_items(snapshot):
    generator = np.random.default_rng(0)
    users = {snapshot.random_user(generator) for _ in range(200)}
    assert users == set(snapshot.dataset.user_ids.to_list())
    test = RaggedArray.from_lengths(np.arange(30) == 7, np.array([1], dtype=np.int32))
    one = replace(snapshot.dataset, test=test)
    only = ModelSnapshot(one, snapshot.models, snapshot.titles, "one")
    assert {only.random_user(generator) for _ in range(5)} == {one.user_ids[7]}
    none = replace(snapshot.dataset, test=RaggedArray.empty(30))
    untested = ModelSnapshot(none, snapshot.models, snapshot.titles, "one")
    assert len({untested.random_user(generator) for _ in range(20)}) > 1


def test_rejected_items_have_no_place_in_the_ranking_of_the_other_model(snapshot):
    best = snapshot.recommend("base", [query(snapshot, "u3", k=3)])[0].items.astype(np.int32)
    rejecting = query(snapshot, "u3", k=3)._replace(rejected=np.sort(best))
    _, tuned = compare_models(snapshot, rejecting).sides
    rows = snapshot.recommend("base", [rejecting._replace(k=20)])[0].items.tolist()
    assert [item.other_rank for item in tuned.items] == [
        rows.index(snapshot.item_index[item.item_id]) + 1 for item in tuned.items
    ]
