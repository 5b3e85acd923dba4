import math

import pytest
import torch

from recoach.data.split import leave_last_out
from recoach.errors import ConfigError, ModelError
from recoach.experiments.trainer import GRPOTrainer
from recoach.models.checkpoint import load_model, load_tensors
from recoach.models.registry import build_model
from recoach.training import loop
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.loop import derive
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.supervised import SupervisedTrainer
from toy_logs import block_graph

DATASET = leave_last_out(block_graph(24, 24, n_blocks=2, length=8))
ENCODER = {"dim": 8, "layers": 1, "heads": 2, "inner_dim": 16, "max_length": 6, "dropout": 0.3}
SETTINGS = {"sasrec": ENCODER | {"loss": "bce"}, "lightgcn": {"dim": 8}, "gsau": ENCODER}
ROUGH = {"batch_size": 40, "learning_rate": 0.02}


class Recorder(Callback):
    """Notes every row, and stops the training when told to."""

    def __init__(self, stop_at=0):
        self.rows, self.steps, self.stop_at, self.began = [], [], stop_at, None

    def on_begin(self, total_steps, step):
        self.began = (total_steps, step)

    def on_step(self, step, logs):
        self.steps.append((step, logs["loss"]))
        if step == self.stop_at:
            raise KeyboardInterrupt

    def on_row(self, row):
        self.rows.append({name: value for name, value in row.items() if name != "seconds"})


def run(kind, folder=None, *, resume=False, stop_at=0, **schedule):
    """Train a fresh model of a kind and return it with what was observed."""
    recorder = Recorder(stop_at)
    context = RunContext(seed=3, folder=folder, callback=recorder, resume=resume)
    schedule = {"epochs": 3, "patience": 0, "eval_steps": 2} | schedule
    name = "sasrec" if kind == "grpo" else kind
    model = build_model(name, DATASET, **SETTINGS[name], seed=1)
    try:
        if kind == "grpo":
            settings = {"estimator": "sampled", "loss_type": "grpo", "num_generations": 16}
            settings |= {"disable_dropout": False, "num_iterations": 2, "beta": 0.1}
            args = GRPOConfig(**settings, **ROUGH, **schedule)
            outcome = GRPOTrainer(model, args=args, train_dataset=DATASET, context=context).train()
        else:
            outcome = pretrain(model, DATASET, PretrainConfig(**ROUGH, **schedule), context)
    except KeyboardInterrupt:
        outcome = None
    return model, recorder, outcome


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(t, theirs[n]) for n, t in ours.items())


@pytest.mark.parametrize("every_step", [False, True], ids=["evaluations", "steps"])
@pytest.mark.parametrize("kind", ["sasrec", "lightgcn", "gsau", "grpo"])
def test_an_interrupted_run_ends_bit_for_bit_where_the_whole_one_does(
    kind, every_step, tmp_path, monkeypatch
):
    if every_step:
        monkeypatch.setattr(loop, "_SAVE_SECONDS", -1.0)
    model, whole, outcome = run(kind, tmp_path / "whole")
    rows = []
    for stop_at in (1, 3, 6, 8, 0):
        again, part, resumed = run(kind, tmp_path / "part", resume=True, stop_at=stop_at)
        rows += part.rows
    assert part.began[1] == (7 if every_step else 6)
    assert equal(again.state_dict(), model.state_dict())
    assert rows == whole.rows
    assert resumed[0] == outcome[0]
    assert resumed[2:] == outcome[2:]
    for name in ("best", "last"):
        ours, theirs = (
            load_tensors(tmp_path / run / f"{name}.safetensors") for run in ("part", "whole")
        )
        assert equal(ours.tensors, theirs.tensors)
        assert ours.state | {"seconds": 0} == theirs.state | {"seconds": 0}
    assert any(name.startswith("optimiser.") for name in ours.tensors)


@pytest.mark.parametrize("kind", ["sasrec", "grpo"])
def test_a_finished_run_is_not_trained_again(kind, tmp_path):
    model, _, outcome = run(kind, tmp_path)
    again, recorder, resumed = run(kind, tmp_path, resume=True)
    assert recorder.steps == recorder.rows == []
    assert equal(again.state_dict(), model.state_dict())
    assert resumed == outcome


def test_without_resume_the_folder_is_begun_anew(tmp_path):
    _, first, _ = run("sasrec", tmp_path)
    _, second, _ = run("sasrec", tmp_path)
    assert second.began[1] == 0
    assert second.steps == first.steps


def test_the_best_weights_are_on_disk_and_in_the_model(tmp_path):
    model, recorder, outcome = run("sasrec", tmp_path)
    values = {row["step"]: row["valid/ndcg@10"] for row in recorder.rows}
    assert outcome.best_value == max(values.values()) == values[outcome.best_step]
    assert equal(load_model(tmp_path, DATASET).state_dict(), model.state_dict())


def test_the_last_weights_are_kept_where_they_are_asked_for(tmp_path):
    model, recorder, outcome = run("sasrec", tmp_path, select="last")
    assert outcome.best_step == outcome.steps == recorder.steps[-1][0]
    last = load_tensors(tmp_path / "last.safetensors").tensors
    assert all(torch.equal(tensor, last[name]) for name, tensor in model.state_dict().items())
    assert equal(load_model(tmp_path, DATASET).state_dict(), model.state_dict())


def test_evaluations_come_as_often_as_asked_for():
    assert [row["step"] for row in run("sasrec", eval_steps=2, max_steps=5)[1].rows] == [2, 4, 5]
    rows = run("sasrec", eval_steps=0, epochs=3)[1].rows
    steps = [row["step"] for row in rows]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert steps == [steps[0], 2 * steps[0], 3 * steps[0]]


def test_grpo_also_measures_the_base():
    assert [row["step"] for row in run("grpo", max_steps=3)[1].rows] == [0, 2, 3]


def test_max_steps_is_the_most():
    _, recorder, outcome = run("lightgcn", max_steps=5, epochs=100)
    assert outcome.steps == len(recorder.steps) == recorder.began[0] == 5


def test_patience_stops_after_so_many_evaluations_without_a_better_one():
    args = PretrainConfig(batch_size=40, epochs=50, patience=2, eval_steps=1, learning_rate=1e-9)
    model, recorder = build_model("sasrec", DATASET, **ENCODER), Recorder()
    outcome = pretrain(model, DATASET, args, RunContext(callback=recorder))
    assert (outcome.best_step, outcome.steps) == (1, 3)
    assert len(recorder.rows) == 3


@pytest.mark.parametrize("stop_at", [0, 3])
def test_what_is_below_the_start_is_not_given_up_while_it_rises(tmp_path, monkeypatch, stop_at):
    told = [0.5, 0.1, 0.2, 0.3, 0.4, 0.6, 0.55, 0.6, 0.7]  # the start, then step after step
    rows = []

    class Kept(Recorder):
        def on_row(self, row):
            rows.append(row)

    monkeypatch.setattr(
        "recoach.training.supervised.validation", lambda *_: lambda _: {"ndcg@10": told[len(rows)]}
    )

    def train(stop_at, *, resume):
        args = GRPOConfig(batch_size=40, eval_steps=1, patience=2, interpolate=False)
        model = build_model("sasrec", DATASET, **ENCODER, seed=1)
        context = RunContext(folder=tmp_path, callback=Kept(stop_at), resume=resume)
        return GRPOTrainer(model, args=args, train_dataset=DATASET, context=context).train()

    if stop_at:
        with pytest.raises(KeyboardInterrupt):
            train(stop_at, resume=False)
    outcome = train(0, resume=True)
    assert (outcome.best_step, outcome.best_value, outcome.steps) == (5, 0.6, 7)


def test_a_row_averages_the_losses_since_the_last_one():
    _, recorder, _ = run("sasrec", eval_steps=2, max_steps=5)
    losses = dict(recorder.steps)
    expected = [(losses[1] + losses[2]) / 2, (losses[3] + losses[4]) / 2, losses[5]]
    assert [row["loss"] for row in recorder.rows] == pytest.approx(expected)


def test_a_loss_that_is_no_number_names_its_step(tmp_path, monkeypatch):
    plain = SupervisedTrainer.step
    taken = []

    def diverging(self, batch, generator):
        taken.append(plain(self, batch, generator))
        return {"loss": math.nan} if len(taken) == 4 else taken[-1]

    monkeypatch.setattr(SupervisedTrainer, "step", diverging)
    with pytest.raises(ModelError, match="nan at step 4"):
        run("sasrec", tmp_path)
    assert load_tensors(tmp_path / "last.safetensors").state["step"] == 2


def test_a_real_divergence_is_caught():
    model = build_model("lightgcn", DATASET, dim=4)
    args = PretrainConfig(batch_size=40, learning_rate=1e30, epochs=3, patience=0)
    with pytest.raises(ModelError, match="learning rate"):
        pretrain(model, DATASET, args)


def test_the_global_random_state_is_left_alone():
    state = torch.random.get_rng_state()
    run("sasrec", max_steps=2)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_streams_differ_by_seed_name_and_number():
    seeds = {derive(s, n, i) for s in (0, 1) for n in ("batches", "draws") for i in (0, 1, 2)}
    assert len(seeds) == 12


def test_a_model_without_steps_is_left_as_it_is():
    model = build_model("popularity", DATASET)
    assert pretrain(model, DATASET).steps == 0


@pytest.mark.parametrize("metric", ["ndcg", "ndcg@0", "hits@10", "ndcg@ten", "@10"])
def test_an_unknown_metric_is_refused_before_training(metric):
    with pytest.raises(ConfigError, match="metric"):
        PretrainConfig(metric=metric)
    with pytest.raises(ConfigError, match="metric"):
        GRPOConfig(metric=metric)


def test_a_metric_at_any_cut_may_select():
    _, recorder, outcome = run("lightgcn", metric="recall@3", max_steps=4)
    assert outcome.best_value == max(row["valid/recall@3"] for row in recorder.rows)


def test_a_divergence_names_tables_users_and_the_last_good_checkpoint(tmp_path, monkeypatch):
    plain, taken = SupervisedTrainer.step, []

    def diverging(self, batch, generator):
        taken.append(batch)
        found = plain(self, batch, generator)
        if len(taken) < 4:
            return found
        with torch.no_grad():
            self.model.parameter_groups()["item"][0][0] = math.nan
        return {"loss": math.nan}

    monkeypatch.setattr(SupervisedTrainer, "step", diverging)
    with pytest.raises(ModelError) as caught:
        run("sasrec", tmp_path)
    said = str(caught.value)
    first = DATASET.user_ids[int(taken[3].states.queries.state_users[0])]
    assert "nan at step 4, with non-finite numbers in the parameter group item" in said
    assert f"(in the batch of users {first}, " in said
    assert f"The last good checkpoint is {tmp_path / 'last.safetensors'}." in said


def test_vectors_that_are_no_numbers_name_the_step_and_the_checkpoint(tmp_path, monkeypatch):
    plain = SupervisedTrainer.step

    def spoiling(self, batch, generator):
        found = plain(self, batch, generator)
        spoiling.count += 1
        if spoiling.count == 4:
            with torch.no_grad():
                self.model.parameter_groups()["item"][0][0] = math.inf
        return found

    spoiling.count = 0
    monkeypatch.setattr(SupervisedTrainer, "step", spoiling)
    words = r"Step 4: .*non-finite vectors.*last good checkpoint is .*last\.safetensors.* item"
    with pytest.raises(ModelError, match=words):
        run("sasrec", tmp_path)


def test_a_best_that_is_ahead_of_the_last_is_met_again(tmp_path, monkeypatch):
    model, _, outcome = run("sasrec", tmp_path / "whole", max_steps=4)
    plain, written = loop.save_tensors, []

    def killed(path, tensors, state, ids):
        written.append(path.name)
        if written.count("last.safetensors") == 2:
            raise KeyboardInterrupt
        plain(path, tensors, state, ids)

    monkeypatch.setattr(loop, "save_tensors", killed)
    run("sasrec", tmp_path / "part", max_steps=4)
    assert written[-2:] == ["best.safetensors", "last.safetensors"]  # the case this is about
    monkeypatch.undo()
    again, _, resumed = run("sasrec", tmp_path / "part", max_steps=4, resume=True)
    assert equal(again.state_dict(), model.state_dict())
    assert (resumed[0], resumed[2:]) == (outcome[0], outcome[2:])


def test_a_row_is_told_before_its_checkpoint_makes_it_past(tmp_path, monkeypatch):
    events, plain = [], loop.save_tensors
    monkeypatch.setattr(
        loop, "save_tensors", lambda *a: events.append(("saved", a[2]["evaluated"])) or plain(*a)
    )

    class Telling(Recorder):
        def on_row(self, row):
            events.append(("told", row["step"]))

    model = build_model("sasrec", DATASET, **SETTINGS["sasrec"], seed=1)
    config = PretrainConfig(**ROUGH, epochs=2, patience=0, eval_steps=2)
    pretrain(model, DATASET, config, RunContext(seed=3, folder=tmp_path, callback=Telling()))
    for step in {step for what, step in events if what == "told"}:
        assert events.index(("told", step)) < events.index(("saved", step))


@pytest.mark.parametrize("name", ["companion.average.x", "optimiser.0.exp_avg", "items.weight"])
def test_a_checkpoint_of_another_training_is_refused_in_words(tmp_path, name):
    run("sasrec", tmp_path, max_steps=2)
    path = tmp_path / "last.safetensors"
    tensors, state, _ = load_tensors(path)
    if name in tensors:
        tensors[name] = torch.zeros(3, 3)
        loop.save_tensors(path, tensors, state)
        with pytest.raises(ModelError, match=r"last\.safetensors does not belong"):
            run("sasrec", tmp_path, resume=True)
    loop.save_tensors(path, load_tensors(path).tensors, {"step": 1})
    with pytest.raises(ModelError, match=r"last\.safetensors does not belong"):
        run("sasrec", tmp_path, resume=True)


def test_the_clock_may_go_backwards(tmp_path, monkeypatch):
    import time

    model, _, outcome = run("sasrec", tmp_path / "whole")
    now = [4e9]

    def backwards():
        now[0] -= 86_400
        return now[0]

    monkeypatch.setattr(time, "time", backwards)
    again, _, other = run("sasrec", tmp_path / "part")
    assert equal(again.state_dict(), model.state_dict())
    assert (other[0], other[2:]) == (outcome[0], outcome[2:])
    assert 0 <= other.seconds < 3600


def test_a_kill_between_the_best_and_the_last_of_the_way_back_changes_nothing(
    tmp_path, monkeypatch
):
    settings = {"interpolate": True, "ema_decay": 0.9, "max_steps": 6}
    run("grpo", tmp_path / "whole", **settings)
    plain = loop.save_tensors

    def killed(path, tensors, state, ids):
        if path.name == "last.safetensors" and state["share"] is not None:
            raise KeyboardInterrupt
        plain(path, tensors, state, ids)

    monkeypatch.setattr(loop, "save_tensors", killed)
    assert run("grpo", tmp_path / "part", **settings)[2] is None
    monkeypatch.undo()
    run("grpo", tmp_path / "part", resume=True, **settings)
    for name in ("best", "last"):
        ours, theirs = (
            load_tensors(tmp_path / run / f"{name}.safetensors") for run in ("part", "whole")
        )
        assert equal(ours.tensors, theirs.tensors)
        assert ours.state | {"seconds": 0} == theirs.state | {"seconds": 0}
