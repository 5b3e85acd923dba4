from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from recoach.data.batches import StateBatches
from recoach.data.queries import Queries
from recoach.data.split import leave_last_out
from recoach.evaluation.evaluator import evaluate
from recoach.models.base import TrainingBatch
from recoach.models.registry import build_model
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from toy_logs import cycle

N_ITEMS = 3
DATASET = leave_last_out(cycle(4, N_ITEMS + 1, length=3))
QUERIES = Queries(
    users=torch.tensor([1, -1]),
    history=torch.tensor([[0, 2, 1], [2, 4, 4]]),
    lengths=torch.tensor([3, 1]),
    rows=torch.tensor([0, 0, 0, 1, 1]),
    ends=torch.tensor([1, 2, 0, 1, 0]),
)
"""User 1 after item 0, after items 0 and 2, and without history; an unknown user after item 2, and
without history. Padding is 4."""


def fpmc(**settings):
    """Return a model of four items with known tables.

    U_1 = (1, 2); V = (1, 0), (0, 1), (1, 1), (-1, 0); L_0 = (3, 0), L_2 = (0, 2);
    W = (1, 1), (0, 1), (-1, 0), (2, 0).
    """
    model = build_model("fpmc", DATASET, dim=2, **settings)
    tables = {
        "last_items.weight": [[3, 0], [5, 5], [0, 2], [7, 7], [0, 0]],
        "items.weight": [[1, 0, 1, 1], [0, 1, 0, 1], [1, 1, -1, 0], [-1, 0, 2, 0]],
        "users.weight": [[9, 9], [1, 2], [9, 9], [9, 9]],
    }
    if not model.config.users:
        tables["items.weight"] = [row[2:] for row in tables["items.weight"]]
        del tables["users.weight"]
    model.load_state_dict({name: torch.tensor(rows).float() for name, rows in tables.items()})
    return model


MARKOV = [[3, 0, -3, 6], [2, 2, 0, 0], [0, 0, 0, 0], [2, 2, 0, 0], [0, 0, 0, 0]]
"""<L_l, W_i>, by state and item."""
USER = [[1, 2, 3, -1]] * 3 + [[0, 0, 0, 0]] * 2
"""<U_u, V_i>, by state and item; nothing for an unknown user."""


def test_scores_are_the_sum_of_the_products_of_user_and_last_item():
    expected = torch.tensor(USER) + torch.tensor(MARKOV)
    assert fpmc().score(QUERIES).tolist() == expected.tolist()


def test_without_users_the_last_item_alone_scores_and_users_are_not_read():
    model = fpmc(users=False)
    assert model.score(QUERIES).tolist() == MARKOV
    changed = replace(QUERIES, users=torch.tensor([3, 0]))
    assert torch.equal(model.score(changed), model.score(QUERIES))
    assert not model.knows_users
    assert fpmc().knows_users
    assert [tuple(part.shape) for part in model.embed(QUERIES)] == [(5, 2), (4, 2)]


def test_groups_are_the_user_table_and_the_item_tables():
    model = fpmc()
    groups = {name: [len(p) for p in tables] for name, tables in model.parameter_groups().items()}
    assert groups == {"user": [4], "item": [4, 5]}
    assert list(fpmc(users=False).parameter_groups()) == ["item"]


def batch_of(targets):
    """Return the states of `QUERIES` with their next items."""
    batches = StateBatches(DATASET.train, n_items=4, history_length=1, batch_size=8)
    batch = next(batches.epoch(torch.Generator().manual_seed(0)))
    return TrainingBatch(batch._replace(queries=QUERIES, targets=torch.tensor(targets)))


def test_cross_entropy_is_over_all_items():
    targets = [3, 0, 2, 1, 3]
    loss = fpmc(loss="ce").loss(batch_of(targets), torch.Generator())
    scores = torch.tensor(USER).float() + torch.tensor(MARKOV)
    assert loss.item() == pytest.approx(
        functional.cross_entropy(scores, torch.tensor(targets)).item()
    )


def test_bpr_draws_every_item_but_the_target_as_the_negative():
    targets = torch.tensor([3, 0, 2, 1, 3])
    scores = torch.tensor(USER).float() + torch.tensor(MARKOV)
    model, generator = fpmc(), torch.Generator().manual_seed(0)
    losses = [model.loss(batch_of(targets.tolist()), generator).item() for _ in range(2000)]
    gaps = scores - scores.gather(1, targets[:, None])
    expected = functional.softplus(gaps).scatter(1, targets[:, None], 0).sum() / (5 * 3)
    assert sum(losses) / len(losses) == pytest.approx(expected.item(), rel=0.02)
    lowest = functional.softplus(gaps).scatter(1, targets[:, None], torch.inf).amin(dim=1).mean()
    assert min(losses) == pytest.approx(lowest.item())  # 2,000 draws of 3^5 combinations


@pytest.mark.parametrize("users", [True, False])
@pytest.mark.parametrize("loss", ["bpr", "ce"])
def test_the_chain_of_a_cycle_is_learned(users, loss):
    dataset = leave_last_out(cycle(n_users=30, n_items=15))
    model = build_model("fpmc", dataset, dim=16, users=users, loss=loss)
    args = PretrainConfig(
        epochs=20, batch_size=64, learning_rate=0.03, patience=0, eval_steps=10**6
    )
    pretrain(model, dataset, args)
    assert evaluate(model, dataset, ks=[1], repeats="all").means()["hit@1"] == 1


def test_a_window_of_each_position_has_the_states_of_one_row():
    model, train = fpmc(), DATASET.train
    shared = StateBatches(train, n_items=4, history_length=3, batch_size=99)
    single = StateBatches(train, n_items=4, history_length=1, batch_size=99)
    scores = []
    for batches in (shared, single):
        batch = next(batches.epoch(torch.Generator().manual_seed(0)))
        order = batch.positions.argsort()
        scores.append(model.score(batch.queries)[order])
    assert torch.equal(*scores)
