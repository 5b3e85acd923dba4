"""What a server says is what `recommend` says, whoever asks at the same time."""

import numpy as np
import pytest

from recoach.errors import DataError
from recoach.models.registry import MODELS
from recoach.serving.explanations import explanation
from recoach.serving.recommend import recommend


def wish(shelf, user=None, history=None, k=5, exclude_seen=True, candidates=None):
    return shelf.ask(
        user=user, history=history, k=k, exclude_seen=exclude_seen, candidates=candidates
    )


def listed(shelf, best):
    return [shelf.item_ids[item] for item in best.items]


@pytest.mark.parametrize("name", MODELS)
def test_a_mixed_batch_is_answered_as_each_alone_and_as_offline(make_shelf, name):
    shelf = make_shelf(name=name)
    model, few = shelf.models["tuned"], ["i1", "i2", "i3", "i4"]
    asks = [
        wish(shelf, "u3"),
        wish(shelf, "u3", exclude_seen=False, k=20),
        wish(shelf, history=["i5", "unknown", "i6"], k=3),
        wish(shelf, "u9", candidates=few),
        wish(shelf, "u8", candidates=few, k=1),
    ]
    together = shelf.best("tuned", asks)
    for ask, best in zip(asks, together, strict=True):
        alone = shelf.best("tuned", [ask])[0]
        assert alone.scores == pytest.approx(best.scores, abs=1e-6)
        if name != "popularity":  # many ties there
            assert alone.items.tolist() == best.items.tolist()
    offline = [
        recommend(model, shelf.dataset, ["u3"], k=5),
        recommend(model, shelf.dataset, ["u3"], k=20, exclude_seen=False),
        recommend(model, shelf.dataset, {"new": ["i5", "i6"]}, k=3),
        recommend(model, shelf.dataset, ["u9"], k=5, candidates=few),
        recommend(model, shelf.dataset, ["u8"], k=1, candidates=few),
    ]
    for best, frame in zip(together, offline, strict=True):
        assert best.scores == pytest.approx(frame["score"].to_list(), abs=1e-5)
        if name != "popularity":
            assert listed(shelf, best) == frame["item_id"].to_list()


def test_who_and_what_is_unknown_is_said(shelf):
    with pytest.raises(KeyError):
        wish(shelf, "nobody")
    with pytest.raises(DataError, match="none of the 2 items"):
        wish(shelf, history=["x", "y"])
    with pytest.raises(DataError, match="None of the 1 candidates"):
        wish(shelf, "u3", candidates=["x"])


def test_items_are_found_by_title_or_id_the_most_taken_first(shelf):
    found = shelf.find_items("TITLE of i1", 20)
    assert {shelf.item_ids[item] for item in found} == {"i1", *(f"i{n}" for n in range(10, 20))}
    taken = shelf.taken[found]
    assert (np.diff(taken) <= 0).all()
    assert shelf.find_items("Title of i1", 2) == found[:2]
    assert shelf.find_items(".*", 20) == []
    assert shelf.find_users("u1", 3) == ["u1", "u10", "u11"]


def test_the_difference_of_two_lists_in_figures(shelf):
    ask = wish(shelf, "u3", k=4)
    told = explanation(shelf, ask)
    assert [side.model for side in told.sides] == ["base", "tuned"]
    everything = wish(shelf, "u3", k=20)
    for side, other in zip(told.sides, ("tuned", "base"), strict=True):
        ranking = listed(shelf, shelf.best(other, [everything])[0])
        for item in side.items:
            assert item.other_rank == ranking.index(item.item_id) + 1
            assert item.taken == shelf.taken[shelf.items[item.item_id]]
            assert item.because in told.history
            assert item.title == f"Title of {item.item_id}"
    base, tuned = ({item.item_id for item in side.items} for side in told.sides)
    assert told.words[0] == f"{len(base & tuned)} of 4 items are in both lists."


def test_lists_of_the_same_items_are_called_so(make_shelf):
    shelf = make_shelf(seed=0)
    assert explanation(shelf, wish(shelf, "u3")).words == [
        "Both show the same items in the same order."
    ]
