import numpy as np
import pytest
import torch

from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries, Seen
from recoach.policy.candidates import Candidates, Proposal, restrict_to_candidates
from recoach.policy.rewards import Rewards

N_ITEMS = 40
TRAIN = RaggedArray(
    np.array([0, 3, 7], dtype=np.int64), np.array([1, 1, 5, 1, 9, 9, 2], dtype=np.int32)
)
REWARDED = torch.tensor([7, 3, 7, 30])


def candidates(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Proposal(TRAIN, N_ITEMS).candidates(REWARDED, count, generator)


def test_the_proposal_is_half_uniform_and_half_by_popularity():
    found = Proposal(TRAIN, N_ITEMS).probabilities
    assert found.sum().item() == pytest.approx(1)
    assert found[0].item() == pytest.approx(0.5 / N_ITEMS)
    assert found[1].item() == pytest.approx(0.5 / N_ITEMS + 0.5 * 3 / 7)


def test_candidates_are_sorted_distinct_and_hold_every_rewarded_item_with_weight_one():
    items, log_weights = candidates(15)
    assert (items.diff() > 0).all()
    assert {3, 7, 30} <= set(items.tolist())
    certain = torch.isin(items, REWARDED)
    assert log_weights[certain].tolist() == [0, 0, 0]


def test_the_weighted_sum_over_candidates_is_the_sum_over_the_catalogue_on_average():
    values = torch.randn(N_ITEMS, generator=torch.Generator().manual_seed(1)).exp()
    sums = []
    for seed in range(4000):
        items, log_weights = candidates(12, seed)
        sums.append((values[items] * log_weights.exp()).sum())
    sums = torch.stack(sums)
    error = sums.std().item() / len(sums) ** 0.5
    assert abs(sums.mean().item() - values.sum().item()) < 4 * error
    assert error < 0.02 * values.sum().item()


def test_many_draws_stand_each_for_itself():
    items, log_weights = candidates(400_000)
    assert len(items) == N_ITEMS
    assert log_weights.abs().max().item() < 0.1


def test_narrowed_tasks_mean_the_same_items():
    chosen = Candidates(torch.tensor([2, 5, 9, 20]), torch.zeros(4))
    states = torch.arange(3)
    seen = Seen(torch.tensor([0, 0, 1, 2]), torch.tensor([5, 6, 20, 39]))
    none = torch.zeros(3, dtype=torch.int64)
    queries = Queries(states, torch.empty(3, 0, dtype=torch.int64), none, states, none, seen)
    rewards = Rewards(torch.tensor([0, 2]), torch.tensor([9, 2]), torch.tensor([1.0, 0.5]))
    there, worth = restrict_to_candidates(queries, rewards, chosen)
    assert there.seen.states.tolist() == [0, 1]
    assert chosen.items[there.seen.items].tolist() == [5, 20]
    assert chosen.items[worth.items].tolist() == [9, 2]
    assert worth.values.tolist() == [1.0, 0.5]
