"""Approximate search: what it finds, what it leaves out, when a server uses it."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from recoach.data.batches import Seen
from recoach.errors import ConfigError
from recoach.evaluation.ranking import top_items
from recoach.serving.index import build_index, nearest, write_index
from recoach.serving.vectors import item_vectors

faiss = pytest.importorskip("faiss", reason="the ann extra is not installed")

DRAW = torch.Generator().manual_seed(0)
CENTRES = torch.randn(40, 16, generator=DRAW)
ITEMS = CENTRES.repeat(100, 1) + 0.5 * torch.randn(4000, 16, generator=DRAW)
USERS = CENTRES[:30] + 0.5 * torch.randn(30, 16, generator=DRAW)
SEEN = Seen(torch.tensor([0] * 50 + [2]), torch.cat([torch.arange(50) * 40, torch.tensor([7])]))


@pytest.mark.parametrize("seen", [None, SEEN], ids=["nothing seen", "some seen"])
def test_few_items_are_found_as_by_looking_at_all(seen):
    found = nearest(build_index(ITEMS.numpy()), USERS, 20, seen)
    exact = top_items(USERS, ITEMS, 20, seen)
    assert found.items.tolist() == exact.items.tolist()
    assert torch.allclose(found.scores, exact.scores, atol=1e-4)


def test_of_many_items_nearly_all_of_the_best_are_found_and_nothing_seen():
    index = build_index(ITEMS.numpy(), exact_up_to=1000)
    assert isinstance(index, faiss.IndexIVFFlat)
    found = nearest(index, USERS, 10, SEEN)
    exact = top_items(USERS, ITEMS, 10, SEEN)
    hits = [
        len({*a} & {*b}) for a, b in zip(found.items.tolist(), exact.items.tolist(), strict=True)
    ]
    assert np.mean(hits) > 9.5
    assert not {*found.items[0].tolist()} & {*SEEN.items[:50].tolist()}


def test_places_that_cannot_be_filled_hold_no_item():
    everything = Seen(torch.zeros(39, dtype=torch.int64), torch.arange(39))
    found = nearest(build_index(CENTRES.numpy()), USERS[:2], 50, everything)
    assert found.items.shape == (2, 40)
    assert found.items[0].tolist() == [39] + [-1] * 39
    assert sorted(found.items[1].tolist()) == list(range(40))


def test_what_the_index_does_not_find_is_no_item():
    index = build_index(ITEMS.numpy(), exact_up_to=1000)
    index.nprobe = 1
    found = nearest(index, USERS, 500)
    assert (found.items < 0).any()
    assert ((found.items < 0) == (found.scores == -torch.inf)).all()


def test_a_written_index_answers_as_before(tmp_path):
    index = build_index(ITEMS.numpy())
    write_index(index, tmp_path / "items.faiss")
    asked = USERS.numpy()
    found = faiss.read_index(str(tmp_path / "items.faiss")).search(asked, 5)
    assert found[1].tolist() == index.search(asked, 5)[1].tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["items.faiss"]


def test_without_faiss_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"recoach\[ann\]"):
        build_index(ITEMS.numpy())


def test_a_shelf_with_an_index_answers_as_one_without(shelf):
    indexes = {
        name: build_index(item_vectors(m, shelf.dataset)) for name, m in shelf.models.items()
    }
    indexed = replace(shelf, indexes=indexes)
    wishes = [
        shelf.ask(user="u3", history=None, k=5, exclude_seen=True, candidates=None),
        shelf.ask(user="u4", history=None, k=20, exclude_seen=False, candidates=None),
    ]
    few = shelf.ask(user="u4", history=None, k=3, exclude_seen=False, candidates=["i1", "i2"])
    for exact, found in zip(
        shelf.best("tuned", [*wishes, few]), indexed.best("tuned", [*wishes, few]), strict=True
    ):
        assert found.items.tolist() == exact.items.tolist()
        assert found.scores == pytest.approx(exact.scores, abs=1e-5)


def test_an_index_is_asked_and_not_the_catalogue(shelf):
    asked = []

    class Spy:
        ntotal = shelf.dataset.n_items

        def search(self, vectors, k):
            asked.append(k)
            return np.ones((len(vectors), k), np.float32), np.tile(np.arange(k), (len(vectors), 1))

    wish = shelf.ask(user="u3", history=None, k=2, exclude_seen=True, candidates=None)
    best = replace(shelf, indexes={"tuned": Spy()}).best("tuned", [wish])[0]
    assert asked == [2 + len(wish.history)]
    assert not {*best.items.tolist()} & {*wish.history.tolist()}
