import math

import numpy as np
import pytest
import torch

from recoach.data.queries import Seen
from recoach.data.split import leave_last_out
from recoach.models.base import Embeddings
from recoach.models.registry import build_model
from recoach.policy import policy
from recoach.policy.policy import Policy, calibrate_temperature
from recoach.simulation.shop import make_log
from toy_logs import popularity_world


def test_a_policy_divides_scores_by_its_temperature_and_masks_seen_items():
    users, items = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [3.0, -1.0]])
    seen = Seen(torch.tensor([1]), torch.tensor([0]))
    (block,) = Policy(0.5).of_vectors(Embeddings(users, items), seen).blocks()
    assert torch.allclose(block.p, torch.tensor([[-4.0, 0.0], [-torch.inf, 0.0]]).softmax(dim=1))


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


def test_calibration_leaves_out_items_without_training_events():
    log = popularity_world(150, 21, length=8)
    items = np.where(log.items == 20, 19, log.items).reshape(150, 8)  # item 20 is in no history
    items[::3, 6] = 20  # but is the validation item of every third user
    dataset = leave_last_out(make_log(log.users, items.ravel(), (150, 21)))
    model = build_model("popularity", dataset)
    counts = model.counts.double()
    trained = dataset.valid.values[dataset.valid.values != 20]
    assert (len(trained), len(dataset.valid.values)) == (100, 150)

    def loss(temperature):
        return -(counts / temperature).log_softmax(0)[torch.from_numpy(trained)].mean().item()

    found = calibrate_temperature(model, dataset, mask_seen=False)
    grid = [math.exp(step / 20) for step in range(-60, 130)]
    assert loss(found) <= min(map(loss, grid)) + 1e-6


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


@pytest.mark.parametrize(("room", "users"), [(20 * 25, 25), (20, 16), (2**27, 40)])
def test_calibration_asks_fewer_users_where_the_catalogue_is_large(room, users, monkeypatch):
    dataset = leave_last_out(popularity_world(40, 20))
    model = build_model("sasrec", dataset, dim=4, heads=2, inner_dim=4)
    asked, plain = [], model.embed
    monkeypatch.setattr(
        model, "embed", lambda queries: asked.append(len(queries)) or plain(queries)
    )
    monkeypatch.setattr(policy, "_CALIBRATION_LOGITS", room)
    calibrate_temperature(model, dataset, mask_seen=True)
    assert asked == [users]
