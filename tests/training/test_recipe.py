"""What the default recipe adds: states as served, hidden edges, the average, the way back."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from recoach.data.dataset import RaggedArray
from recoach.data.protocol import ByTime
from recoach.data.split import leave_last_out
from recoach.experiments.trainer import GRPOTrainer
from recoach.models.registry import build_model
from recoach.policy.reward_funcs import log_reward
from recoach.training import loop
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.sft import SFTConfig
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext, Schedule
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from toy_logs import block_graph, cycle, with_ratings

DATASET = leave_last_out(block_graph(24, 24, n_blocks=2, length=8))
ENCODER = {"dim": 8, "layers": 1, "heads": 2, "inner_dim": 16, "max_length": 6}


def build(name, dataset=DATASET):
    return build_model(name, dataset, **({"dim": 8} if name == "lightgcn" else ENCODER), seed=1)


def trainer(name, dataset=DATASET, **settings):
    args = GRPOConfig(**{"batch_size": 16} | settings)
    return GRPOTrainer(build(name, dataset), args=args, train_dataset=dataset)


@pytest.mark.parametrize(("name", "per_user"), [("sasrec", 5), ("gsau", 5), ("lightgcn", 1)])
def test_a_state_is_a_place_where_the_model_stands_as_in_service(name, per_user):
    tasks = list(trainer(name).epoch(torch.Generator()))
    assert sum(len(task.queries) for task in tasks) == per_user * 24


@pytest.mark.parametrize(("size", "steps"), [("auto", 8), (2048, 1)])
def test_a_small_log_is_gone_through_in_eight_steps_unless_told_otherwise(size, steps):
    moved = trainer("lightgcn", batch_size=size)
    tasks = list(moved.epoch(torch.Generator().manual_seed(0)))
    assert len(moved) == len(tasks) == steps
    assert sum(len(task.queries) for task in tasks) == 24


def test_the_own_loss_keeps_its_large_batches_in_a_small_log():
    moved = trainer("lightgcn", batch_size="auto", sft_coef=1.0)
    task = next(iter(moved.epoch(torch.Generator().manual_seed(0))))
    assert len(task.supervised.edges.targets) == len(DATASET.train.values)


def test_rewarded_edges_are_hidden_unless_they_were_there_before():
    dataset = leave_last_out(cycle(12, 20, length=7))
    for hide in (True, False):
        told = {"hide_rewarded": hide, "reward_smoothing": 0}
        for task in trainer("lightgcn", dataset, **told).epoch(torch.Generator()):
            assert (task.queries.hidden is not None) is hide
            if hide:
                users, items = task.queries.hidden_edges
                last = [dataset.train.row(int(user))[-1] for user in users]
                assert items.tolist() == last
                assert len(users) == len(task.queries)


@pytest.mark.parametrize("state", ["user", "last_prefix", "prefix"])
def test_where_all_of_the_training_set_is_rewarded_no_edge_is_hidden(state):
    told = {"reward_funcs": ("train_set",), "mask_seen": False, "state": state}
    tasks = list(trainer("lightgcn", **told).epoch(torch.Generator()))
    assert tasks
    assert all(task.queries.hidden is None for task in tasks)
    assert sum(len(task.rewards.items) for task in tasks) > 0


def test_a_pair_taken_before_is_one_edge_and_not_hidden():
    plain = leave_last_out(cycle(12, 20, length=7))
    values = plain.train.values.copy()
    last = plain.train.offsets[1:] - 1
    values[last[:6]] = values[plain.train.offsets[:6]]  # six users end on what they began with
    dataset = replace(plain, train=RaggedArray(plain.train.offsets, values))
    told = {"mask_seen": False, "reward_smoothing": 0}
    tasks = trainer("lightgcn", dataset, **told).epoch(torch.Generator())
    users = torch.cat([task.queries.hidden_edges[0] for task in tasks])
    assert sorted(users.tolist()) == list(range(6, 12))


@pytest.mark.parametrize(("name", "told"), [("sasrec", "last_prefix"), ("lightgcn", "prefix")])
def test_a_state_that_is_told_is_taken_whatever_the_model(name, told):
    (task,) = trainer(name, batch_size=500, state=told).epoch(torch.Generator().manual_seed(0))
    asked = task.queries.state_users.bincount()
    assert bool(asked.max() > 1) is (told == "prefix")


def test_a_graph_model_learns_without_the_edge_it_is_rewarded_for():
    moved = trainer("lightgcn", hide_rewarded=True)
    task = next(iter(moved.epoch(torch.Generator().manual_seed(0))))
    vectors = moved.model.embed(task.queries)
    without = moved.model.graph(
        moved.model.users.weight, moved.model.items.weight, 2, task.queries.hidden_edges
    )
    assert torch.equal(vectors.items, without[1])
    assert not torch.allclose(vectors.items, moved.model.propagate()[1])


class Follower(Callback):
    """Keeps what a model's items were after every step."""

    def __init__(self, model):
        self.model, self.items = model, [model.items.weight.detach().clone()]

    def on_step(self, step, logs):
        self.items.append(self.model.items.weight.detach().clone())


@pytest.mark.parametrize("kind", ["grpo", "supervised"])
@pytest.mark.filterwarnings("ignore:.*policy has collapsed")  # in a world without chance it does
def test_what_is_returned_is_an_average_that_follows_the_model(kind):
    model = build("lightgcn")
    seen = Follower(model)
    shared = {"batch_size": 16, "max_steps": 20, "learning_rate": 0.1, "epochs": 20}
    settings = shared | {"ema_decay": 0.6, "select": "last"}
    context = RunContext(callback=seen)
    if kind == "grpo":
        args = GRPOConfig(**settings)
        GRPOTrainer(model, args=args, train_dataset=DATASET, context=context).train()
    else:
        pretrain(model, DATASET, PretrainConfig(**settings), context)
    expected = seen.items[0]
    for step, moved in enumerate(seen.items[1:]):
        memory = min(0.6, (1 + step) / (10 + step))
        expected = memory * expected + (1 - memory) * moved
    assert torch.allclose(model.items.weight, expected, atol=1e-6)
    assert not torch.allclose(model.items.weight, seen.items[-1], atol=1e-3)


def test_without_a_memory_the_model_itself_is_returned():
    model = build("lightgcn")
    seen = Follower(model)
    args = GRPOConfig(batch_size=16, max_steps=4, ema_decay=0.0, select="last")
    GRPOTrainer(model, args=args, train_dataset=DATASET, context=RunContext(callback=seen)).train()
    assert torch.equal(model.items.weight, seen.items[-1])


class Distance:
    """Measures how far a model has gone, or how near it is to a distance that is best."""

    def __init__(self, model, peak=None, *, start_counts=False):
        self.peak, self.start_counts = peak, start_counts
        self.start = [p.detach().clone() for p in model.parameters()]

    def gone(self, model):
        gaps = [p.detach() - s for p, s in zip(model.parameters(), self.start, strict=True)]
        return sum(float(gap.square().sum()) for gap in gaps) ** 0.5

    def __call__(self, model):
        gone = self.gone(model)
        counts = gone or self.start_counts
        return {"ndcg@10": gone if self.peak is None else counts and 10 - abs(gone - self.peak)}


@pytest.mark.parametrize("place", [0.25, 0.5, 0.75, 1.0])
def test_the_best_point_between_the_start_and_the_best_is_returned(place, monkeypatch):
    end, _ = _after_a_step(None, monkeypatch)
    gone, outcome = _after_a_step(place * end, monkeypatch)
    assert outcome.share == place
    assert outcome.best_value == pytest.approx(10)
    assert gone == pytest.approx(place * end, rel=1e-4)


def test_where_every_step_goes_too_far_the_way_to_the_last_is_looked_at(monkeypatch):
    end, _ = _after_a_step(None, monkeypatch)
    gone, outcome = _after_a_step(0.25 * end, monkeypatch, start_counts=True)
    assert outcome.start_value == pytest.approx(10 - 0.25 * end)  # better than the end's 10 - .75
    assert outcome.share == 0.25
    assert outcome.best_step == 1
    assert gone == pytest.approx(0.25 * end, rel=1e-4)


def _after_a_step(peak, monkeypatch, **settings):
    """Train for a step under a metric that peaks at a distance; return the distance gone."""
    model = build("lightgcn")
    distance = Distance(model, peak, **settings)
    args = GRPOConfig(batch_size=64, max_steps=1, learning_rate=0.1, ema_decay=0.0)
    tuner = GRPOTrainer(model, args=args, train_dataset=DATASET)
    monkeypatch.setattr("recoach.training.supervised.validation", lambda *_: distance)
    outcome = tuner.train()
    return distance.gone(model), outcome


def test_a_base_that_stays_the_best_is_returned_whole():
    model = build("sasrec")
    pretrain(model, DATASET, PretrainConfig(epochs=30, batch_size=48, learning_rate=0.01))
    before = [p.detach().clone() for p in model.parameters()]
    args = GRPOConfig(batch_size=16, max_steps=3, learning_rate=3.0)
    outcome = GRPOTrainer(model, args=args, train_dataset=DATASET).train()
    assert outcome.best_step == 0
    assert outcome.share == 1.0  # the way to the last was looked at as well
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("stop_after", ["best", "last"])
@pytest.mark.parametrize("too_far", [False, True])
def test_interrupted_on_the_way_back_it_ends_the_same(tmp_path, monkeypatch, stop_after, too_far):
    go = partial(_drawn_back, peak=0.5 if too_far else 1.0, start_counts=too_far)
    whole, outcome = go(tmp_path / "whole")
    assert outcome.best_value > outcome.start_value + 0.1
    assert outcome.share not in (None, 1.0)
    save = loop.save_tensors

    def stops(path, tensors, state, ids):
        save(path, tensors, state, ids)
        if state["share"] is not None and path.stem == stop_after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, "save_tensors", stops)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "part")
    for folder in ("part", "whole"):
        again, resumed = go(tmp_path / folder, resume=True)
        assert resumed[2:] == outcome[2:]
        for ours, theirs in zip(again.parameters(), whole.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def _drawn_back(folder, resume=False, **settings):
    """Train under a metric that peaks short of where a step ends."""
    model = build("lightgcn")
    distance = Distance(model, **settings)
    args = GRPOConfig(batch_size=64, max_steps=1, learning_rate=0.1)
    context = RunContext(folder=folder, resume=resume)
    tuner = GRPOTrainer(model, args=args, train_dataset=DATASET, context=context)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("recoach.training.supervised.validation", lambda *_: distance)
        return model, tuner.train()


@pytest.mark.parametrize(("name", "carried"), [("sasrec", 0), ("lightgcn", 0), ("gsau", 0.3)])
def test_the_own_loss_goes_along_where_it_regularises(name, carried):
    assert build(name).regularises is bool(carried)
    for settings, expected in (({}, carried), ({"sft_coef": 0.0}, 0), ({"sft_coef": 0.5}, 1)):
        tasks = list(trainer(name, **settings).epoch(torch.Generator()))
        assert {task.supervised is not None for task in tasks} == {bool(expected)}
    assert trainer(name)._sft_coef == carried


@pytest.mark.parametrize(("name", "share"), [("sasrec", 0.3), ("lightgcn", 0.3), ("gsau", 0)])
def test_the_log_pays_for_what_the_same_users_take_where_nothing_else_regularises(name, share):
    paid = partial(rewards_of, name)
    by_default, told = paid(), paid(reward_smoothing=share)
    assert torch.equal(by_default.items, told.items)
    assert torch.equal(by_default.values, told.values)
    plain, spread = paid(reward_smoothing=0), paid(reward_smoothing=0.3)
    assert (len(by_default.items) > len(plain.items)) is bool(share)
    assert len(spread.items) > len(plain.items)  # told so, for any model


def rewards_of(name="sasrec", dataset=DATASET, **settings):
    moved = trainer(name, dataset, batch_size=500, **settings)
    (task,) = moved.epoch(torch.Generator().manual_seed(0))
    return task.rewards


def test_by_time_every_state_weighs_the_same_and_neighbours_get_nothing():
    by_time = replace(DATASET, split=ByTime())
    rewards = rewards_of(dataset=by_time)
    plain = rewards_of(reward_smoothing=0)
    assert torch.equal(rewards.items, plain.items)
    sums = torch.zeros(int(plain.states.max()) + 1).index_add(0, plain.states, plain.values)
    assert sums.max() > 2 * sums[sums > 0].min()
    assert torch.allclose(rewards.values, plain.values / sums[plain.states])
    told = rewards_of(reward_smoothing=0, normalize_rewards=True)
    assert torch.equal(rewards.values, told.values)
    former = rewards_of(dataset=by_time, reward_smoothing=0.3, normalize_rewards=False)
    assert torch.equal(former.values, rewards_of().values)


@log_reward
def graded(prompts, completions, ahead, **_):
    """Reward as `future` does, under another name."""
    return 0.8 ** (ahead - 1.0)


@pytest.mark.parametrize(
    ("functions", "settings"), [(None, {"loss_type": "power"}), ([graded], {}), (["rated"], {})]
)
def test_by_time_other_transforms_and_rewards_keep_their_sizes(functions, settings):
    ratings = 1 + np.arange(len(DATASET.train.values)) % 5
    by_time = replace(with_ratings(DATASET, ratings), split=ByTime())

    def sums(**told):
        args = GRPOConfig(batch_size=500, **settings | told)
        moved = GRPOTrainer(build("sasrec"), functions, args=args, train_dataset=by_time)
        (task,) = moved.epoch(torch.Generator().manual_seed(0))
        states, values = task.rewards.states, task.rewards.values
        return torch.zeros(len(task.queries)).index_add(0, states, values)

    assert len(sums().unique()) > 2
    assert torch.equal(sums(), sums(normalize_rewards=False))


def test_by_time_the_default_objective_is_the_cross_entropy_of_sft():
    by_time = replace(DATASET, split=ByTime())
    ours, sft = (build("sasrec", by_time) for _ in range(2))
    shared = {"batch_size": 16, "max_steps": 3, "select": "last", "disable_dropout": True}
    for model, args in ((ours, GRPOConfig(**shared)), (sft, SFTConfig(**shared))):
        GRPOTrainer(model, args=args, train_dataset=by_time, context=RunContext(seed=3)).train()
    for found, expected in zip(ours.parameters(), sft.parameters(), strict=True):
        assert torch.allclose(found, expected, atol=1e-5)


def test_the_paper_has_neither():
    quirks = GRPOConfig.paper()
    assert (quirks.reward_smoothing, quirks.sft_coef) == (0, 0)


def test_only_a_schedule_that_keeps_the_best_looks_between():
    assert GRPOConfig().schedule().interpolate
    assert not GRPOConfig(select="last").schedule().interpolate
    assert not Schedule(1, "ndcg@10", 0).interpolate


def test_callbacks_are_told_beside_the_session_s_observer():
    class Teller(Callback):
        def __init__(self):
            self.told = []

        def on_begin(self, total_steps, step):
            self.told.append(("begin", total_steps, step))

        def on_step(self, step, logs):
            self.told.append(("step", step, logs["loss"]))

        def on_row(self, row):
            self.told.append(("row", row["step"], row["valid/ndcg@10"]))

        def on_end(self, outcome):
            self.told.append(("end", outcome.steps, outcome.best_value))

    own, first, second = Teller(), Teller(), Teller()
    args = GRPOConfig(max_steps=2, eval_steps=2, batch_size=16)
    GRPOTrainer(
        build("sasrec"),
        args=args,
        train_dataset=DATASET,
        callbacks=[first, second],
        context=RunContext(callback=own),
    ).train()
    assert [told[0] for told in own.told] == ["begin", "row", "step", "step", "row", "end"]
    assert own.told == first.told == second.told
