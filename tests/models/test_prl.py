"""PRL conditions the next item on step and return."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from recoach.data.batches import StateBatches
from recoach.data.dataset import RaggedArray, drop_last, join_rows
from recoach.data.queries import histories, user_queries
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.models.base import TrainingBatch
from recoach.models.registry import build_model
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from toy_logs import block_graph, make_log, with_event_types

SMALL = {"dim": 8, "layers": 1, "heads": 1, "inner_dim": 8, "max_length": 4, "dropout": 0.0}
WEIGHTS = {"view": 0.5, "buy": 2.0}
DATASET = leave_last_out(with_event_types(block_graph(20, 20, n_blocks=2, length=9)))


def build(dataset=DATASET, **settings):
    return build_model("prl", dataset, **SMALL | {"prompt_dropout": 0.0} | settings, seed=3)


def ask(model, multiplier):
    """Return the model with another prompt."""
    model.config = model.config.model_copy(update={"return_multiplier": multiplier})
    return model.eval()


def scores(model, dataset=DATASET, multiplier=2.0):
    past = histories(dataset, "test", model.reads)
    queries = user_queries(past, np.arange(len(past)), 4, model.n_items, mask_seen=False)
    return ask(model, multiplier).score(queries).detach()


def whole(dataset):
    """Return the dataset with all events in train, so that all histories end there."""
    rows = join_rows([dataset.train, dataset.valid, dataset.test])
    nothing = RaggedArray.empty(dataset.n_users)
    return replace(dataset, train=rows, valid=nothing, test=nothing)


def returns_by_hand(train, weights):
    """Return the sum of the weights from each event to the end of its user's history."""
    codes = train.columns["event_type"].to_physical().to_numpy()
    rewards = np.array(list(weights.values()))[codes]
    rows = np.split(rewards, train.offsets[1:-1])
    return np.concatenate([np.cumsum(row[::-1])[::-1] for row in rows])


def train(model, dataset, epochs=30, **settings):
    args = {"batch_size": 64, "learning_rate": 0.02, "patience": 0, "eval_steps": 10**6}
    pretrain(model, dataset, PretrainConfig(epochs=epochs, select="last", **args | settings))
    return model


def return_decides(n_users, high):
    """Return a log of users who take item 0, then 1 and views, or 2 and one or more buys.

    `high` of the users, in turn, take item 2.
    """
    buys = (np.arange(n_users) % 10) < high
    items = np.where(buys[:, None], [0, 2, 3, 4, 5], [0, 1, 3, 4, 5])
    types = np.where(buys[:, None], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0])
    log = make_log(np.repeat(np.arange(n_users), 5), items.ravel(), (n_users, 6))
    return whole(leave_last_out(with_event_types(log, types.ravel())))


@pytest.mark.parametrize("encoder", ["sasrec", "gru4rec"])
def test_without_a_map_of_the_return_all_multipliers_give_the_same_scores(encoder):
    settings = {} if encoder == "sasrec" else {"heads": 2, "inner_dim": 256}
    model = build(encoder=encoder, **settings)
    assert not torch.allclose(scores(model, multiplier=0), scores(model, multiplier=4), atol=1e-3)
    torch.nn.init.zeros_(model.return_map.weight)
    assert torch.equal(scores(model, multiplier=0), scores(model, multiplier=4))


def test_the_step_alone_has_no_return():
    model = build(prompt="step")
    assert model.return_map is None
    assert torch.equal(scores(model, multiplier=0), scores(model, multiplier=4))
    model.steps.weight.data.normal_()
    assert not torch.allclose(scores(model), scores(build(prompt="step")), atol=1e-3)


def test_returns_and_steps_are_those_of_whole_histories():
    model, train_part = build(event_weights=WEIGHTS), DATASET.train
    expected = returns_by_hand(train_part, WEIGHTS)
    scale = expected.mean()
    place = np.arange(len(expected)) - np.repeat(train_part.offsets[:-1], train_part.lengths)
    means = [expected[np.minimum(place, 4) == step].mean() / scale for step in range(5)]
    assert model.mean_returns.tolist() == pytest.approx(means, rel=1e-5)
    asked = []
    model._prompted = lambda states, *prompt: asked.append(prompt) or states
    loader = StateBatches(train_part, n_items=20, history_length=4, batch_size=30)
    for batch in loader.epoch(torch.Generator().manual_seed(0)):
        model.loss(TrainingBatch(states=batch), torch.Generator())
        steps, returns, is_known = asked.pop()
        assert steps.tolist() == np.minimum(place[batch.positions], 4).tolist()
        assert np.allclose(returns.numpy(), expected[batch.positions] / scale)
        assert is_known.all()


def test_the_step_of_a_served_state_is_that_of_training():
    model, seen = build(), []
    model._prompted = lambda states, *prompt: seen.append(prompt) or states
    past = histories(DATASET, "test")
    queries = user_queries(past, np.arange(20), 4, 20, mask_seen=False)
    short = replace(queries, ends=torch.arange(20) % 5)
    model.embed(short)
    steps, returns = seen.pop()
    assert steps.tolist() == [user % 5 for user in range(20)]
    assert torch.equal(returns, 2 * model.mean_returns[steps])


@pytest.mark.parametrize("column", ["timestamp", "session_id"])
def test_sessions_have_steps_and_returns_of_their_own(column):
    minutes = np.array([0, 1, 2, 60, 61, 200, 201, 202, 203])
    log = block_graph(20, 20, n_blocks=2, length=9)
    times = pl.Series(np.tile(minutes, 20) * 60_000 + np.repeat(np.arange(20), 9), dtype=pl.Int64)
    columns = {"timestamp": times}
    if column == "session_id":
        ids = np.repeat([7, 3, 9], [3, 2, 4]).tolist() * 20
        columns = {"session_id": pl.Series([str(i) for i in ids])}
    dataset = leave_last_out(replace(log, columns=columns))  # 7 training events
    model = build(dataset, episode="session", max_length=9)
    assert model.reads == (column,)
    assert model._steps.reshape(20, 7)[3].tolist() == [0, 1, 2, 0, 1, 0, 1]
    mean = np.mean([3, 2, 1, 2, 1, 2, 1])
    assert np.allclose(model._returns.reshape(20, 7)[3] * mean, [3, 2, 1, 2, 1, 2, 1])
    past = histories(dataset, "test", model.reads)
    queries = user_queries(past, np.arange(20), 9, 20, mask_seen=False)
    for end, step in ((1, 1), (3, 3), (4, 1), (5, 2), (8, 3), (0, 0)):
        states = replace(queries, ends=torch.full((20,), end))
        assert model._inference_steps(states).tolist() == [step] * 20
    bare = replace(queries, columns={})
    assert model._inference_steps(bare).tolist() == [8] * 20


def test_returns_of_open_episodes_are_unknown_where_only_closed_ones_count():
    shorter = replace(DATASET, test=RaggedArray.empty(20), valid=DATASET.valid)
    lengths = np.where(np.arange(20) < 10, 0, 1)
    half = RaggedArray.from_lengths(lengths, DATASET.valid.values[10:], {})
    model = build(replace(shorter, valid=half), returns="closed")
    users = np.repeat(np.arange(20), DATASET.train.lengths)
    assert (model._is_known == (users < 10)).all()
    states = torch.zeros(2, 8)
    with torch.no_grad():
        model.unknown.normal_()
    steps, returns = torch.ones(2).long(), torch.ones(2)
    known, unknown = model._prompted(states, steps, returns, torch.tensor([True, False]))
    assert not torch.allclose(known, unknown, atol=1e-3)
    asked_for = model._prompted(states, steps, returns)
    assert torch.equal(asked_for, known.expand(2, 8))
    with pytest.raises(ConfigError, match="leave-one-out"):
        build(returns="closed")


@pytest.mark.parametrize("prompt", ["return", "shuffled_return"])
def test_asking_for_more_raises_the_share_of_the_rewarding_action(prompt):
    dataset = return_decides(100, 2)
    model = train(build(dataset, event_weights={"view": 0.1, "buy": 1}, prompt=prompt), dataset)
    queries = user_queries(
        drop_last(dataset.train, 4), np.arange(1), 4, dataset.n_items, mask_seen=False
    )
    shares = [
        ask(model, multiplier).score(queries).softmax(dim=1)[0, 2].item()
        for multiplier in (0.0, 1.0, 2.0, 4.0)
    ]
    if prompt == "shuffled_return":
        assert abs(shares[2] - shares[0]) < 0.15
        return
    assert shares == sorted(shares)
    assert shares[0] < 0.05
    assert shares[3] > 0.95


def test_the_fixed_point_is_the_share_of_next_items_given_the_return():
    """Of the users with a high return 3 in 4 take item 1 next, of the others 1 in 4."""
    rows = [(1, 1), (1, 1), (1, 1), (2, 1), (1, 0), (2, 0), (2, 0), (2, 0)] * 4
    items = np.array([(0, first, 3) for first, _ in rows])
    types = np.array([(0, 0, high) for _, high in rows])
    log = make_log(np.repeat(np.arange(32), 3), items.ravel(), (32, 4))
    dataset = whole(leave_last_out(with_event_types(log, types.ravel())))
    model = build(dataset, event_weights={"view": 0, "buy": 1})
    train(model, dataset, 300, batch_size=1000, lr_scheduler_type="linear")
    queries = user_queries(drop_last(dataset.train, 2), np.arange(1), 4, 4, mask_seen=False)
    mean = model.mean_returns[1]
    for wanted, expected in ((2 * 0.5, 0.75), (0.0, 0.25)):
        scale = returns_by_hand(dataset.train, {"view": 0, "buy": 1}).mean()
        model = ask(model, wanted / scale / mean.item())
        share = model.score(queries).softmax(dim=1)[0]
        assert share[1].item() == pytest.approx(expected, abs=1e-3)
        assert share[2].item() == pytest.approx(1 - expected, abs=1e-3)


def test_a_resumed_training_has_the_same_weights(tmp_path):
    class StopAfter(Callback):
        steps = 0

        def on_step(self, step, logs):
            self.steps = step

        def stops(self):
            return self.steps == 3

    args = PretrainConfig(epochs=2, batch_size=30, select="last")
    settings = {"prompt": "shuffled_return", "prompt_dropout": 0.3, "dropout": 0.2}
    whole_run, stopped, resumed = (build(**settings) for _ in range(3))
    pretrain(whole_run, DATASET, args)
    callback = StopAfter()
    pretrain(stopped, DATASET, args, RunContext(folder=tmp_path, callback=callback))
    assert callback.steps == 3
    pretrain(resumed, DATASET, args, RunContext(folder=tmp_path, resume=True))
    for name, tensor in whole_run.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_other_training_histories_than_those_it_was_built_for_are_refused():
    model = build()
    for rows in (drop_last(DATASET.train, 1), DATASET.train.take_rows(np.arange(20)[::-1])):
        loader = StateBatches(rows, n_items=20, history_length=4, batch_size=1000)
        batch = next(loader.epoch(torch.Generator()))
        with pytest.raises(ConfigError, match="other training histories"):
            model.loss(TrainingBatch(states=batch), torch.Generator())


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_dim": 64},
        {"encoder": "gru4rec", "architecture": "hstu"},
        {"session_gap": 5.0},
        {"prompt": "step", "return_multiplier": 1.0},
    ],
)
def test_settings_without_effect_are_refused(settings):
    with pytest.raises(ConfigError, match="has no effect"):
        build_model("prl", DATASET, **settings)


def test_a_step_that_train_does_not_reach_has_the_mean_return_of_the_last_one():
    means = build(max_length=10).mean_returns
    assert (means[1:7] < means[:6]).all()  # seven events each: less and less is left
    assert means[7:].tolist() == [means[6].item()] * 4
    assert means[6] > 0
