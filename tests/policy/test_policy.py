import math

import pytest
import torch

from recoach.data.batch import Seen
from recoach.data.split import leave_last_out
from recoach.data.synthetic import popularity_world
from recoach.models.registry import build_model
from recoach.policy.policy import Policy, calibrate_temperature, seen_between

USERS = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
ITEMS = torch.tensor([[1.0, 1.0], [3.0, -1.0], [0.5, 0.0]])
SEEN = Seen(torch.tensor([0, 0, 2, 3]), torch.tensor([1, 2, 0, 1]))


def test_logits_are_products_over_the_temperature():
    found = Policy(0.5).logits(USERS, ITEMS)
    assert found.tolist() == [[2, 6, 1], [4, -4, 0]]


def test_logits_are_float32_whatever_the_model_computes_in():
    assert Policy().logits(USERS.double(), ITEMS.double()).dtype == torch.float32


def test_seen_items_have_no_probability_and_no_gradient():
    items = ITEMS.clone().requires_grad_()
    seen = Seen(torch.tensor([0, 1]), torch.tensor([1, 1]))
    p = Policy().logits(USERS, items, seen).softmax(dim=1)
    p[:, 0].log().sum().backward()
    assert p[:, 1].tolist() == [0, 0]
    assert items.grad[1].tolist() == [0, 0]


def test_the_seen_pairs_of_a_block_are_counted_from_its_start():
    part = seen_between(SEEN, 2, 4)
    assert part.states.tolist() == [0, 1]
    assert part.items.tolist() == [0, 1]
    assert seen_between(None, 0, 3) is None


def test_the_calibrated_temperature_is_the_best_of_a_grid():
    dataset = leave_last_out(popularity_world(150, 20))
    model = build_model("popularity", dataset)
    counts = model.counts.double()
    targets = torch.from_numpy(dataset.valid.values).long()

    def loss(temperature):
        return -(counts / temperature).log_softmax(0)[targets].mean().item()

    found = calibrate_temperature(model, dataset, mask_seen=False)
    grid = [math.exp(step / 20) for step in range(-60, 130)]
    assert loss(found) <= min(map(loss, grid)) + 1e-6
    assert 1e-3 < found < 1e3


def test_calibration_undoes_a_change_of_scale():
    dataset = leave_last_out(popularity_world(150, 20))
    model = build_model("popularity", dataset)
    first = calibrate_temperature(model, dataset, mask_seen=True)
    model.counts.mul_(10)
    assert calibrate_temperature(model, dataset, mask_seen=True) == pytest.approx(
        10 * first, rel=1e-3
    )


def test_calibration_leaves_the_model_in_its_mode():
    dataset = leave_last_out(popularity_world(40, 20))
    model = build_model("sasrec", dataset, dim=4, heads=2, inner_dim=4).train()
    calibrate_temperature(model, dataset, mask_seen=True)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
