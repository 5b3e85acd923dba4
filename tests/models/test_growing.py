"""Models grow to more users and items; what they know stays as it is, bit for bit."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from recoach import build_model, leave_last_out, read_interactions
from recoach.data.dataset import RaggedArray
from recoach.data.extend import events_not_in, extend, hold_out_newest
from recoach.data.queries import histories, user_queries
from recoach.errors import ModelError
from recoach.models.growing import WithoutNewItems, grow
from recoach.models.registry import MODELS
from tests.models import own_models

SMALL = {
    "sasrec": {"dim": 8, "layers": 1, "heads": 1},
    "gru4rec": {"dim": 8, "hidden_dim": 8},
    "gsau": {"dim": 8, "heads": 1},
    "neumf": {"dim": 8, "mlp_dim": 8, "hidden_dims": (8,)},
}


def log(first, last, n_users, n_items):
    return read_interactions(
        pl.DataFrame(
            [
                (f"u{user}", f"i{(user + 3 * step) % n_items}", 1_500_000_000 + 60 * step)
                for step in range(first, last)
                for user in range(n_users)
            ],
            schema=["user_id", "item_id", "timestamp"],
            orient="row",
        )
    )


@pytest.fixture(scope="module")
def datasets():
    old = leave_last_out(log(0, 6, 12, 9), "old")
    return old, extend(old, log(6, 9, 15, 11)).dataset


def scores(model, dataset, users):
    past = histories(dataset, "all")
    queries = user_queries(
        past, np.arange(users), model.history_length, model.n_items, mask_seen=False
    )
    with torch.no_grad():
        return model.eval().score(queries)


def weights_of_old_rows(model, grown, n_users, n_items):
    for name, before in model.state_dict().items():
        after = grown.state_dict()[name]
        if before.shape == after.shape:
            assert torch.equal(before, after), name
        else:
            rows = n_users if len(before) == n_users else n_items
            assert torch.equal(before[:rows], after[:rows]), name


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].model.needs])
def test_old_rows_and_all_other_weights_are_copied_bit_for_bit(datasets, name):
    old, new = datasets
    model = build_model(name, old, seed=1, **SMALL.get(name, {"dim": 8}))
    grown = grow(model, old, new)
    assert (grown.n_users, grown.n_items) == (new.n_users, new.n_items)
    assert grown.ids == new.ids
    weights_of_old_rows(model, grown, old.n_users, old.n_items)
    assert all(torch.isfinite(tensor).all() for tensor in grown.state_dict().values())


def test_the_scores_of_old_items_for_old_histories_are_unchanged(datasets):
    old, new = datasets
    model = build_model("sasrec", old, seed=1, **SMALL["sasrec"])
    grown = grow(model, old, new)
    past = histories(old, "all")
    options = {"mask_seen": False}
    before = model.eval().score(user_queries(past, np.arange(5), 50, old.n_items, **options))
    after = grown.score(user_queries(past, np.arange(5), 50, new.n_items, **options))
    assert torch.equal(before, after[:, : old.n_items])


def test_the_padding_row_stays_last_and_zero(datasets):
    old, new = datasets
    grown = grow(build_model("sasrec", old, seed=1, **SMALL["sasrec"]), old, new)
    assert torch.equal(grown.items.weight[new.n_items], torch.zeros(8))
    assert (grown.items.weight[old.n_items : new.n_items] != 0).any(dim=1).all()


def test_new_rows_are_the_mean_of_the_items_of_the_same_users():
    old = leave_last_out(log(0, 4, 2, 5))
    row = pl.DataFrame({"user_id": ["u1"], "item_id": ["new"], "timestamp": [1_600_000_000]})
    new = extend(old, read_interactions(row)).dataset
    model = build_model("bprmf", old, dim=4)
    grown = grow(model, old, new)
    items = new.train.row(1)[:-1]
    assert torch.allclose(grown.items.weight[-1], model.items.weight[items].mean(dim=0))


def test_new_users_are_the_mean_of_users_with_the_same_items():
    old = leave_last_out(log(0, 4, 2, 30))
    rows = pl.DataFrame({"user_id": ["n"], "item_id": ["i4"], "timestamp": [1_600_000_000]})
    new = extend(old, read_interactions(rows)).dataset
    model = build_model("bprmf", old, dim=4)
    grown = grow(model, old, new)
    assert torch.allclose(grown.users.weight[2], model.users.weight[1])  # i4 is of user 1 only


def test_new_rows_are_predicted_from_content_where_there_is_some(datasets):
    old, new = datasets
    model = build_model("bprmf", old, dim=4)
    generator = np.random.default_rng(0)
    many = log(0, 30, 40, 40)
    old = leave_last_out(many)
    model = build_model("bprmf", old, dim=4, seed=1)
    content = generator.normal(size=(41, 3))
    with torch.no_grad():
        model.items.weight.copy_(torch.from_numpy(content[:40] @ generator.normal(size=(3, 4))))
    rows = pl.DataFrame({"user_id": ["u1"], "item_id": ["new"], "timestamp": [1_600_000_000]})
    new = extend(old, read_interactions(rows)).dataset
    table = pl.DataFrame({"item_id": new.item_ids, "vector": content.tolist()})
    object.__setattr__(new, "item_table", table)
    grown = grow(model, old, new)
    weights = np.linalg.lstsq(content[:40], model.items.weight.detach().numpy(), rcond=None)[0]
    expected = torch.from_numpy(content[40] @ weights).float()
    assert torch.allclose(grown.items.weight[40], expected, atol=0.02)


def test_models_without_weights_are_computed_from_the_new_log(datasets):
    old, new = datasets
    grown = grow(build_model("itemknn", old), old, new)
    expected = build_model("itemknn", new)
    assert torch.equal(scores(grown, new, 5), scores(expected, new, 5))


def test_a_model_of_ones_own_grows_by_its_builder(datasets):
    old, new = datasets
    model = build_model(own_models.build, old, dim=6)
    grown = grow(model, old, new)
    weights_of_old_rows(model, grown, old.n_users, old.n_items)
    assert torch.equal(grown.module.last.weight[-1], model.module.last.weight[-1])


def test_a_weight_that_is_no_table_is_refused_in_one_sentence(datasets):
    old, new = datasets

    def build(dataset):
        model = own_models.build(dataset)
        model.module.square = torch.nn.Parameter(torch.ones(dataset.n_items, dataset.n_items))
        return model

    with pytest.raises(ModelError, match=r"cannot grow: its weight module\.square has shape"):
        grow(build_model(build, old), old, new)


def test_a_dataset_in_another_order_is_refused(datasets):
    old, _ = datasets
    other = leave_last_out(log(0, 6, 13, 9).keep(np.arange(78) > 2), "other")
    with pytest.raises(ModelError, match="does not begin with the users"):
        grow(build_model("bprmf", old, dim=4), old, other)


def test_the_former_catalogue_ranks_new_items_last(datasets):
    old, new = datasets
    grown = grow(build_model("bprmf", old, dim=4), old, new)
    former = WithoutNewItems(grown, old.n_items)
    result = scores(former, new, 3)
    assert torch.equal(result[:, : old.n_items], scores(grown, new, 3)[:, : old.n_items])
    assert (result[:, old.n_items :].max() < result[:, : old.n_items].min()).item()


def test_new_rows_do_not_depend_on_held_out_events(datasets):
    old, new = datasets
    held_out, _ = hold_out_newest(new, events_not_in(new.train, old.train), 0.5)
    only_train = replace(held_out, valid=RaggedArray.empty(new.n_users))
    model = build_model("bprmf", old, dim=4, seed=1)
    rows = [grow(model, old, dataset).items.weight for dataset in (held_out, only_train, new)]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])  # what is held out would have changed them
