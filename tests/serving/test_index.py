"""The faiss index: recall, exclusion of seen items, and its use by a snapshot."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from recoach.data.queries import Seen
from recoach.errors import ConfigError
from recoach.evaluation.ranking import top_items
from recoach.serving.index import build_index, search_index, write_index
from recoach.serving.vectors import item_vectors

faiss = pytest.importorskip("faiss", reason="the ann extra is not installed")

RNG = torch.Generator().manual_seed(0)
CENTRES = torch.randn(40, 16, generator=RNG)
ITEMS = CENTRES.repeat(100, 1) + 0.5 * torch.randn(4000, 16, generator=RNG)
USERS = CENTRES[:30] + 0.5 * torch.randn(30, 16, generator=RNG)
SEEN = Seen(torch.tensor([0] * 50 + [2]), torch.cat([torch.arange(50) * 40, torch.tensor([7])]))


@pytest.mark.parametrize("seen", [None, SEEN], ids=["nothing seen", "some seen"])
def test_a_flat_index_equals_exact_ranking(seen):
    top = search_index(build_index(ITEMS.numpy()), USERS, 20, seen)
    exact = top_items(USERS, ITEMS, 20, seen)
    assert top.items.tolist() == exact.items.tolist()
    assert torch.allclose(top.scores, exact.scores, atol=1e-4)


def test_inverted_lists_find_nearly_all_top_items_and_exclude_seen_ones():
    index = build_index(ITEMS.numpy(), exact_up_to=1000)
    assert isinstance(index, faiss.IndexIVFFlat)
    top = search_index(index, USERS, 10, SEEN)
    exact = top_items(USERS, ITEMS, 10, SEEN)
    hits = [len({*a} & {*b}) for a, b in zip(top.items.tolist(), exact.items.tolist(), strict=True)]
    assert np.mean(hits) > 9.5
    assert not {*top.items[0].tolist()} & {*SEEN.items[:50].tolist()}


def test_rows_with_too_few_unseen_items_are_padded():
    seen = Seen(torch.zeros(39, dtype=torch.int64), torch.arange(39))
    top = search_index(build_index(CENTRES.numpy()), USERS[:2], 50, seen)
    assert top.items.shape == (2, 40)
    assert top.items[0].tolist() == [39] + [-1] * 39
    assert sorted(top.items[1].tolist()) == list(range(40))


def test_positions_the_index_cannot_fill_are_padded():
    index = build_index(ITEMS.numpy(), exact_up_to=1000)
    index.nprobe = 1
    top = search_index(index, USERS, 500)
    assert (top.items < 0).any()
    assert ((top.items < 0) == (top.scores == -torch.inf)).all()


def test_a_written_index_gives_the_same_results_when_read(tmp_path):
    index = build_index(ITEMS.numpy())
    write_index(index, tmp_path / "items.faiss")
    vectors = USERS.numpy()
    _, items = faiss.read_index(str(tmp_path / "items.faiss")).search(vectors, 5)
    assert items.tolist() == index.search(vectors, 5)[1].tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["items.faiss"]


def test_the_error_without_faiss_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"recoach\[ann\]"):
        build_index(ITEMS.numpy())


def test_a_snapshot_gives_the_same_lists_with_and_without_an_index(snapshot):
    indexes = {
        name: build_index(item_vectors(m, snapshot.dataset)) for name, m in snapshot.models.items()
    }
    indexed = replace(snapshot, faiss_indexes=indexes)
    queries = [
        snapshot.build_query(user="u3", history=None, k=5, exclude_seen=True, candidates=None),
        snapshot.build_query(user="u4", history=None, k=20, exclude_seen=False, candidates=None),
        snapshot.build_query(
            user="u4", history=None, k=3, exclude_seen=False, candidates=["i1", "i2"]
        ),
    ]
    for exact, approximate in zip(
        snapshot.recommend("tuned", queries), indexed.recommend("tuned", queries), strict=True
    ):
        assert approximate.items.tolist() == exact.items.tolist()
        assert approximate.scores == pytest.approx(exact.scores, abs=1e-5)


def test_a_snapshot_with_an_index_searches_it_for_k_plus_the_seen_items(snapshot):
    requested = []

    class FakeIndex:
        ntotal = snapshot.dataset.n_items

        def search(self, vectors, k):
            requested.append(k)
            return np.ones((len(vectors), k), np.float32), np.tile(np.arange(k), (len(vectors), 1))

    query = snapshot.build_query(user="u3", history=None, k=2, exclude_seen=True, candidates=None)
    indexed = replace(snapshot, faiss_indexes={"tuned": FakeIndex()})
    recommendation = indexed.recommend("tuned", [query])[0]
    assert requested == [2 + len(query.history)]
    assert not {*recommendation.items.tolist()} & {*query.history.tolist()}
