"""What the Python names offer: trainers, saved models, lists with the types of the log, help."""

import io
import json
import subprocess
import sys
from importlib import metadata

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from rich.console import Console

import recoach
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError, DataError, RunError
from recoach.training.callbacks import Callback, CallbackList, StateRecorder, TrainerState
from recoach.training.reporting import ProgressBar
from toy_logs import cycle

DATA = leave_last_out(cycle(24, 12, length=7))
QUICK = recoach.GRPOConfig(max_steps=4, eval_steps=2, batch_size=16)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def base():
    model = recoach.build_model("sasrec", DATA, dim=8)
    recoach.pretrain(model, DATA, recoach.PretrainConfig(epochs=2, batch_size=48))
    return weights(model)


def trainer_of(base, args=QUICK, **options):
    model = recoach.build_model("sasrec", DATA, dim=8)
    model.load_state_dict(base)
    return recoach.GRPOTrainer(model, args=args, train_dataset=DATA, **options)


def test_help_and_dir_list_every_name():
    text = recoach.__doc__  # what help(recoach) begins with
    listed = {name.strip() for line in text.splitlines() for name in line.split(":")[0].split(",")}
    assert set(recoach.__all__) <= listed
    assert set(recoach.__all__) | {"__version__"} <= set(dir(recoach))
    assert recoach.__version__ == metadata.version("recoach")


def test_the_names_are_listed_without_importing_torch():
    code = "import sys, recoach; dir(recoach); recoach.__version__; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    assert output.stdout == "False\n"


def test_the_state_of_a_trainer_has_the_names_of_transformers(base):
    trainer = trainer_of(base)
    result = trainer.train()
    state = trainer.state
    assert (state.global_step, state.max_steps) == (4, 4)
    assert [row["step"] for row in state.log_history] == [0, 2, 4]
    assert state.best_metric == result.best_value
    assert state.best_global_step == result.best_step


def test_a_trainer_evaluates_the_model_as_it_is(base):
    trainer = trainer_of(base)
    expected = recoach.evaluate(trainer.model, DATA, "test", ks=[5])
    assert trainer.evaluate(ks=[5]).means() == expected.means()
    assert trainer.evaluate("valid").means()["ndcg@10"] == pytest.approx(
        recoach.evaluate(trainer.model, DATA, "valid").means()["ndcg@10"]
    )


def test_a_saved_model_is_a_finished_run_folder(base, tmp_path):
    trainer = trainer_of(base)
    trainer.train()
    trainer.save_model(str(tmp_path / "run"))
    tuned, before = recoach.load(tmp_path / "run"), recoach.load(str(tmp_path / "run"), "base")
    assert (tuned.stage, before.stage) == ("tuned", "base")
    assert same(weights(tuned.model), weights(trainer.model))
    assert same(weights(before.model), base)
    assert tuned.evaluate().means() == trainer.evaluate().means()
    expected = recoach.recommend(trainer.model, DATA, k=3)
    assert tuned.recommend(k=3).equals(expected)
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count('"tuned"') == 3
    with pytest.raises(RunError, match="not empty"):
        trainer.save_model(tmp_path / "run")
    with pytest.raises(RunError, match="no control model"):
        recoach.load(tmp_path / "run", "control")


def test_a_model_saved_before_training_is_the_base(base, tmp_path):
    trainer_of(base).save_model(tmp_path / "run")
    loaded = recoach.load(tmp_path / "run")
    assert loaded.stage == "base"
    assert same(weights(loaded.model), base)


def test_a_model_of_a_notebook_is_opened_with_its_builder(tmp_path):
    def build(dataset: recoach.Dataset, *, dim: int = 4):
        module = torch.nn.Embedding(dataset.n_items, dim)
        return recoach.wrap(
            module,
            dataset,
            query=lambda m, users, histories: torch.ones(len(users), m.embedding_dim),
            items=lambda m: m.weight,
        )

    model = recoach.build_model(build, DATA, dim=5)
    with pytest.raises(ConfigError, match=r"has no loss to train it by\. Pass loss="):
        recoach.pretrain(model, DATA)
    recoach.GRPOTrainer(model, args=QUICK, train_dataset=DATA).save_model(tmp_path / "run")
    from recoach.models import external

    external._HANDED_OVER.clear()
    with pytest.raises(recoach.RecoachError):
        recoach.load(tmp_path / "run")
    loaded = recoach.load(tmp_path / "run", build=build)
    assert same(weights(loaded.model), weights(model))


class Stopping(Callback):
    """Asks for a stop after some steps."""

    def __init__(self, after):
        self.after, self.step = after, 0

    def on_step(self, step, logs):
        self.step = step

    def stops(self):
        return self.step >= self.after


def test_a_stop_asked_by_a_callback_ends_the_training_with_its_result(base, tmp_path):
    trainer = trainer_of(base, callbacks=[Stopping(3)])
    result = trainer.train()
    assert result.steps == 3
    assert trainer.state.best_metric == result.best_value
    # Resumed, it ends as if it had not been stopped.
    context = recoach.RunContext(folder=str(tmp_path / "a"), resume=True)
    trainer_of(base, callbacks=[Stopping(3)], context=context).train()
    resumed = trainer_of(base, context=context)
    assert resumed.train().steps == 4
    whole = trainer_of(base)
    whole.train()
    assert same(weights(resumed.model), weights(whole.model))


def test_a_stop_before_any_evaluation_returns_the_present_weights(base):
    model = recoach.build_model("sasrec", DATA, dim=8)
    model.load_state_dict(base)
    context = recoach.RunContext(callback=Stopping(2))
    result = recoach.pretrain(model, DATA, recoach.PretrainConfig(batch_size=16), context)
    assert (result.steps, result.best_step) == (2, 2)
    assert not same(weights(model), base)


def test_a_metric_of_ones_own_selects_on_a_validation_set_of_ones_own(base):
    held_out = leave_last_out(cycle(24, 12, length=7))
    seen = []

    def longest(model, dataset):
        seen.append(dataset)
        return -float(len(seen))  # the first evaluation, of the base, is the best

    context = recoach.RunContext(validation_metric=longest, eval_dataset=held_out)
    trainer = trainer_of(base, context=context)
    result = trainer.train()
    assert (result.best_step, result.best_value) == (0, -1.0)
    assert trainer.state.log_history[0]["valid/longest"] == -1.0
    assert "valid/ndcg@10" in trainer.state.log_history[0]
    assert all(dataset is held_out for dataset in seen)
    context = recoach.RunContext(validation_metric=lambda model, dataset: float("nan"))
    with pytest.raises(ConfigError, match="returned nan"):
        trainer_of(base, context=context).train()


def test_trackers_need_a_folder_and_are_named(base):
    with pytest.raises(ConfigError, match=r"no tracker 'wandbb'\. Did you mean 'wandb'"):
        trainer_of(base, context=recoach.RunContext(report_to="wandbb")).train()


def test_one_user_is_one_user():
    model = recoach.build_model("popularity", DATA)
    user, items = DATA.user_ids[0], DATA.item_ids.to_list()
    frame = recoach.recommend(model, DATA, user, k=3)
    assert frame["user_id"].to_list() == [user] * 3
    assert recoach.recommend(model, DATA, {"new": items[0]}, k=2).height == 2
    one = recoach.recommend(model, DATA, {"new": [items[0]]}, candidates=items[5], k=2)
    assert one["item_id"].to_list() == [items[5]]


@pytest.mark.parametrize("kind", ["pandas", "polars", "parquet"])
def test_lists_have_ids_of_the_type_of_the_log(kind, tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(20), 6),
            "item_id": [f"i{item}" for item in rng.integers(9, size=120)],
            "timestamp": np.arange(120),
        }
    )
    source = frame if kind == "pandas" else pl.from_pandas(frame)
    if kind == "parquet":
        source.write_parquet(tmp_path / "log.parquet")
        source = tmp_path / "log.parquet"
    log = recoach.read_interactions(source)
    assert log.frame().schema["user_id"] == pl.Int64
    recoach.prepare(tmp_path / "log.parquet", tmp_path / "data") if kind == "parquet" else None
    data = leave_last_out(log)
    if kind == "parquet":
        data = recoach.load_dataset(tmp_path / "data")
    lists = recoach.recommend(recoach.build_model("popularity", data), data, 12, k=2)
    assert lists.schema["user_id"] == pl.Int64
    assert lists.schema["item_id"] == pl.String
    merged = lists.to_pandas().merge(frame.drop_duplicates("user_id")[["user_id"]], on="user_id")
    assert len(merged) == len(lists) > 0
    new = recoach.recommend(
        recoach.build_model("popularity", data), data, {"a": ["i1"], "b": ["i2"]}, k=1
    )
    assert new["user_id"].to_list() == ["a", "b"]


def test_a_dataset_of_frames_has_all_columns_and_needs_no_validation_part():
    frame = pl.DataFrame(
        {
            "user_id": [1, 1, 1, 2, 2, 2],
            "item_id": [10, 11, 12, 10, 12, 13],
            "timestamp": [1, 2, 3, 1, 2, 3],
            "rating": [5.0, 4.0, 3.0, 2.0, 1.0, 5.0],
            "event_type": ["view", "buy", "view", "buy", "view", "view"],
        }
    )
    test = pl.DataFrame(
        {"user_id": [2], "item_id": [14], "timestamp": [9], "rating": [1.0], "event_type": ["buy"]}
    )
    data = recoach.Dataset.from_frames(frame, test=test.to_pandas(), name="shop")
    assert data.train.lengths.tolist() == [2, 2]
    assert data.item_ids.gather(data.valid.values).to_list() == ["12", "13"]
    assert set(data.train.columns) == {"timestamp", "rating", "event_type"}
    assert data.test.columns["event_type"].to_list() == ["buy"]
    assert data.id_types.items == pl.Int64
    with_valid = recoach.Dataset.from_frames(frame, test, test)
    assert with_valid.train.lengths.tolist() == [3, 3]
    assert with_valid.item_ids.gather(with_valid.valid.values).to_list() == ["14"]
    with pytest.raises(ConfigError, match="pass test="):
        recoach.Dataset.from_frames(frame)
    with pytest.raises(DataError, match="test: there is a header but no interactions"):
        recoach.Dataset.from_frames(frame, test=test.clear())


class Rates(Callback):
    """Records the learning rate of each step."""

    def __init__(self):
        self.rates = []

    def on_step(self, step, logs):
        self.rates.append(logs["learning_rate"])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]),
        (
            "cosine",
            [0.0, 0.5, 1.0, 0.8535534, 0.5, 0.1464466],
        ),  # as get_cosine_schedule_with_warmup
    ],
)
def test_learning_rates_follow_the_schedule_also_where_resumed(kind, expected, tmp_path):
    config = recoach.PretrainConfig(
        max_steps=6, batch_size=16, learning_rate=0.1, lr_scheduler_type=kind, warmup_steps=2
    )

    def train(folder, *callbacks):
        model = recoach.build_model("sasrec", DATA, dim=8, dropout=0.2)
        rates = Rates()
        for number, callback in enumerate(callbacks):
            both = CallbackList([rates, callback])
            context = recoach.RunContext(folder=folder, callback=both, resume=number > 0)
            result = recoach.pretrain(model, DATA, config, context)
        return rates.rates, weights(model), result

    rates, whole, result = train(tmp_path / "whole", Callback())
    assert rates == pytest.approx([0.1 * factor for factor in expected])
    assert result.total_steps == 6
    rates, resumed, _ = train(tmp_path / "resumed", Stopping(3), Callback())
    assert rates == pytest.approx([0.1 * factor for factor in expected])
    assert same(resumed, whole)


def test_gradients_are_clipped_to_a_norm(base):
    def change(**settings):
        args = QUICK.model_copy(
            update={"optim": "sgd", "max_steps": 1, "ema_decay": 0.0, **settings}
        )
        trainer = trainer_of(base, args.model_copy(update={"select": "last"}))
        trainer.train()
        parameters = dict(trainer.model.named_parameters())
        squares = [(parameters[name].detach() - base[name]).square().sum() for name in parameters]
        return float(sum(squares)) ** 0.5, trainer.state.log_history[-1]["grad_norm"]

    moved, norm = change(learning_rate=0.1)
    clipped, norm_before = change(learning_rate=0.1, max_grad_norm=norm / 4)
    assert norm_before == pytest.approx(norm)
    assert moved == pytest.approx(0.1 * norm, rel=1e-4)
    assert clipped == pytest.approx(moved / 4, rel=1e-4)
    assert change(learning_rate=0.1, max_grad_norm=norm * 4)[0] == moved
    model = recoach.build_model("sasrec", DATA, dim=8)
    model.load_state_dict(base)
    keep = TrainerState()
    config = recoach.PretrainConfig(max_steps=1, batch_size=16, max_grad_norm=1e-3)
    recorder = StateRecorder(keep, "ndcg@10")
    recoach.pretrain(model, DATA, config, recoach.RunContext(callback=recorder))
    assert keep.log_history[-1]["grad_norm"] > 1e-3


def test_the_control_has_the_schedule_of_the_fine_tuning(tmp_path, monkeypatch):
    monkeypatch.setattr("recoach.api.write_report", lambda _: None)
    settings = {
        "pretrain.max_steps": 2,
        "pretrain.batch_size": 16,
        "finetune.max_steps": 8,
        "finetune.eval_steps": 1,
        "finetune.patience": 1,
        "finetune.select": "best",
        "finetune.learning_rate": 1e-6,  # no step is better: it stops early
        "finetune.lr_scheduler_type": "linear",
        "finetune.ema_decay": 0.0,
        "model.dim": 8,
    }
    results = recoach.run(DATA, "sasrec", tmp_path / "run", settings)
    steps = results["models"]["tuned"]["steps"]
    assert 1 <= steps < 8
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rates = {
        stage: [
            row["learning_rate"]
            for row in map(json.loads, rows)
            if row["stage"] == stage and row["step"]
        ]
        for stage in ("tuned", "control")
    }
    assert rates["tuned"] == pytest.approx([1e-6 * (1 - step / 8) for step in range(steps)])
    assert rates["control"] == rates["tuned"]


def test_nothing_is_printed_without_a_terminal(base, capfd):
    trainer_of(base).train()
    assert capfd.readouterr() == ("", "")


def test_the_progress_bar_shows_the_steps_in_a_terminal_and_ends_after_an_error():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    bar = ProgressBar(console, "Fine-tuning", "ndcg@10")
    bar.on_begin(8, 0)
    bar.on_step(3, {})
    bar.on_row({"step": 3, "valid/ndcg@10": 0.25})
    bar._progress.refresh()
    assert "Fine-tuning, ndcg@10 0.2500" in console.file.getvalue()
    assert "3/8" in console.file.getvalue()
    bar.stop()
    assert not bar._progress.live.is_started
