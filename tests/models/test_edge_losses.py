"""Cross-entropy over a sample of the catalogue, against sums written out."""

import pytest
import torch

from graph_log import N_ITEMS, N_USERS, ragged
from recoach.models.base import Embeddings
from recoach.models.distribution import Workspace
from recoach.models.graph.edge_losses import Edges, ItemSample, edge_cross_entropy, sample_items
from recoach.models.popularity_sampler import PopularitySampler

ROWS = [[0, 1, 1], [1, 2, 3], [4], [5], [0, 4]]
EDGES = Edges(torch.tensor([4, 0, 0]), torch.tensor([4, 1, 0]))


def tables(dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    return Embeddings(
        *(
            torch.randn(n, 3, dtype=dtype, generator=generator, requires_grad=True)
            for n in (N_USERS, N_ITEMS)
        )
    )


def test_a_sample_weights_its_items_and_counts_the_target_once():
    vectors, log_weights = tables(), torch.tensor([0.0, 0.3, 1.2, 0.7])
    sample = ItemSample(torch.tensor([0, 1, 3, 4]), log_weights)
    loss = edge_cross_entropy(EDGES, vectors, Workspace(), sample)
    expected = []
    for user, item in zip(EDGES.user_ids, EDGES.item_ids, strict=True):
        scores = vectors.items[sample.items] @ vectors.users[user]
        weights = torch.where(sample.items == item, 1.0, log_weights.exp())
        target = vectors.items[item] @ vectors.users[user]
        expected.append((weights * scores.exp()).sum().log() - target)
    expected = torch.stack(expected).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    for ours, theirs in zip(
        torch.autograd.grad(loss, vectors), torch.autograd.grad(expected, vectors), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_sample_of_all_items_without_weights_gives_the_cross_entropy():
    vectors = tables()
    sample = ItemSample(torch.arange(N_ITEMS), torch.zeros(N_ITEMS))
    whole, sampled = (edge_cross_entropy(EDGES, vectors, Workspace(), s) for s in (None, sample))
    logits = vectors.users[EDGES.user_ids] @ vectors.items.T
    assert whole.item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, EDGES.item_ids).item(), abs=1e-6
    )
    assert sampled.item() == pytest.approx(whole.item(), abs=1e-6)


def test_the_weights_are_the_inverse_of_the_probability_of_being_sampled():
    sampler = PopularitySampler(ragged(ROWS), N_ITEMS, alpha=0)
    generator = torch.Generator().manual_seed(0)
    sample = sample_items(sampler, torch.tensor([0, 1] * 5), 4, generator)
    assert {0, 1} < set(sample.items.tolist())
    assert torch.equal(sample.items, sample.items.unique())
    # Items of 10 out of 10 interactions, of which they have 2, 3, 1, 1, 2, 1, and 4 of 6 draws.
    absent = (1 - torch.tensor([2.0, 3, 1, 1, 2, 1]) / 10) ** 10 * (1 - 1 / 6) ** 4
    assert torch.allclose(sample.log_weights, -(1 - absent[sample.items]).log(), atol=1e-5)


def test_the_weighted_sum_over_samples_averages_to_the_sum_over_the_catalogue():
    sampler = PopularitySampler(ragged(ROWS), N_ITEMS, alpha=0)
    values, positions = torch.tensor([1.0, 5, 2, 8, 3, 4]), torch.from_numpy(ragged(ROWS).values)
    sums, generator = [], torch.Generator().manual_seed(0)
    for _ in range(2000):
        batch = positions[torch.randint(len(positions), (2,), generator=generator)].long()
        items, log_weights = sample_items(sampler, batch, 2, generator)
        sums.append((values[items] * log_weights.exp()).sum())
    assert torch.stack(sums).mean().item() == pytest.approx(values.sum().item(), rel=0.03)
