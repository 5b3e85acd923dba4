"""Training again on train and validation: the same steps, more data, the same test targets."""

import numpy as np
import polars as pl
import pytest
import torch

from recoach.data.dataset import merge_valid
from recoach.data.protocol import ByRatio, ByTime, LeaveLastOut
from recoach.data.split import leave_last_out
from recoach.data.targets import cold_targets_of, targets_of
from recoach.errors import ConfigError
from recoach.evaluation.evaluator import evaluate_targets
from recoach.experiments.config import EvaluationConfig, read_config
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.served import load_served
from recoach.experiments.stages import execute, open_run
from recoach.models.checkpoint import load_model, load_tensors
from recoach.models.registry import build_model
from recoach.report.html import write_report
from recoach.simulation.shop import make_log
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.callbacks import Callback, TrainResult
from recoach.training.context import RunContext
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.trainer import RLTrainer
from toy_logs import block_graph

DATASET = leave_last_out(block_graph(24, 24, n_blocks=2, length=8))
ENCODER = {"dim": 8, "layers": 1, "heads": 2, "inner_dim": 16, "max_length": 6, "dropout": 0.3}
SETTINGS = {"sasrec": ENCODER, "lightgcn": {"dim": 8}}
ROUGH = {"batch_size": 40, "learning_rate": 0.05, "epochs": 4, "patience": 2, "ema_decay": 0.5}
STAGES = ("base", "tuned", "control")


class Stopping(Callback):
    """Stops the training at a step."""

    def __init__(self, step):
        self.step = step

    def on_step(self, step, logs):
        if step == self.step:
            raise KeyboardInterrupt


def train(kind, dataset=DATASET, *, temperature="auto", stop_at=0, **context):
    """Train a fresh model and return its weights and the result; None if it was stopped."""
    name = "sasrec" if kind == "grpo" else kind
    model = build_model(name, dataset, **SETTINGS[name], seed=1)
    context = RunContext(seed=3, callback=Stopping(stop_at), **context)
    settings = ROUGH | {"eval_steps": 2, "interpolate": True}
    try:
        if kind == "grpo":
            args = GRPOConfig(**settings, temperature=temperature)
            result = RLTrainer(model, args=args, train_dataset=dataset, context=context).train()
        else:
            result = pretrain(
                model, dataset, PretrainConfig(**settings), context, start_is_candidate=True
            )
    except KeyboardInterrupt:
        return None, None
    return model.state_dict(), result


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(t, theirs[n]) for n, t in ours.items())


@pytest.mark.parametrize("kind", ["sasrec", "lightgcn", "grpo"])
def test_a_selection_that_is_repeated_on_the_same_data_gives_the_same_weights(kind):
    weights, result = train(kind)
    assert result.best_step > 0
    again, repeated = train(kind, selected=result)
    assert equal(again, weights)
    assert (repeated.steps, repeated.best_step, repeated.share) == (
        result.best_step,
        result.best_step,
        result.share,
    )


@pytest.mark.parametrize("share", [None, 0.25, 1.0])
def test_the_selected_share_of_the_change_is_returned(share):
    start, _ = train("sasrec", selected=TrainResult(9, 0.0, 0, 0.0, None))
    assert equal(start, build_model("sasrec", DATASET, **ENCODER, seed=1).state_dict())
    end, _ = train("sasrec", selected=TrainResult(9, 0.0, 5, 0.0, None))
    weights, result = train("sasrec", selected=TrainResult(9, 0.0, 5, 0.0, None, share))
    assert result.steps == 5
    for name, value in weights.items():
        expected = start[name] + (1 if share is None else share) * (end[name] - start[name])
        assert torch.allclose(value, expected, atol=1e-6)


def test_an_interrupted_training_on_train_and_validation_ends_bit_for_bit_the_same(tmp_path):
    merged, selected = merge_valid(DATASET), TrainResult(9, 0.0, 7, 0.0, None, 0.5)
    settings = {"dataset": merged, "selected": selected, "temperature": 0.7}
    for kind in ("lightgcn", "grpo"):
        folders = tmp_path / kind / "whole", tmp_path / kind / "part"
        whole, _ = train(kind, folder=folders[0], **settings)
        for stop_at in (2, 5, 0):
            weights, result = train(
                kind, folder=folders[1], resume=True, stop_at=stop_at, **settings
            )
        assert equal(weights, whole)
        assert result.steps == 7
        for name in ("best", "last"):
            ours, theirs = (load_tensors(folder / f"{name}.safetensors") for folder in folders)
            assert equal(ours.tensors, theirs.tensors)


def test_a_temperature_is_not_fitted_without_validation_events():
    with pytest.raises(ConfigError, match=r"the dataset has none; set finetune\.temperature"):
        train("grpo", merge_valid(DATASET), selected=TrainResult(9, 0.0, 7, 0.0, None))


def test_the_last_weights_need_no_validation_events():
    model = build_model("sasrec", DATASET, **ENCODER)
    config = PretrainConfig(epochs=2, batch_size=40, select="last", patience=1, eval_steps=1)
    result = pretrain(model, merge_valid(DATASET), config)
    assert result.steps == result.best_step > 2


def test_items_of_validation_are_not_cold_after_training_again():
    items = np.array([0, 1, 2, 0, 2, 1, 0, 1, 3])  # of each user: train, valid, test
    dataset = leave_last_out(make_log(np.repeat(np.arange(3), 3), items, (3, 4)))
    targets = targets_of(dataset, "test")
    assert targets.items.tolist() == [2, 1, 3]
    assert targets.cold.tolist() == [True, True, True]
    again = cold_targets_of(targets, merge_valid(dataset))
    assert np.array_equal(again.positions, targets.positions)
    assert again.cold.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("retrain", "split", "expected"),
    [
        ("auto", ByTime(), True),
        ("auto", ByTime(valid="users"), False),
        ("auto", ByTime(valid="last"), False),
        ("auto", LeaveLastOut(), False),
        ("auto", ByRatio(), False),
        (True, LeaveLastOut(), True),
        (False, ByTime(), False),
    ],
)
def test_a_split_by_time_trains_again_by_default(retrain, split, expected):
    assert EvaluationConfig(retrain=retrain).retrains(split) is expected


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Return a CSV of 120 users; an item of the last tenth of time is new, another in the ninth."""
    generator = np.random.default_rng(7)
    rows = []
    for user in range(120):
        item = int(generator.integers(20))
        for time in sorted(generator.integers(0, 9_000, size=12)):
            item = (item + 1) % 20 if generator.random() < 0.7 else int(generator.integers(20))
            late = {time > 8_600: 21, time < 7_400: item}.get(True, 20)
            kept = item if generator.random() < 0.8 else late
            rows.append((f"u{user}", f"i{kept}", 1_000_000 + int(time)))
    path = tmp_path_factory.mktemp("logs") / "log.csv"
    pl.DataFrame(rows, ["user_id", "item_id", "timestamp"], orient="row").write_csv(path)
    return path


def settings(log, model):
    changes = [f'data.path="{log}"', "data.split=time", f"model.name={model}"]
    changes += ["pretrain.epochs=3", "pretrain.batch_size=64", "pretrain.learning_rate=0.01"]
    changes += ["finetune.epochs=2", "finetune.batch_size=128", "evaluation.repeats=all"]
    if model == "lightgcn":  # of a base trained by cross-entropy no step of GRPO is better
        changes.append("model.loss=bpr")
    return read_config(None, changes)


def run_all(config, path, stop=(None, 0)):
    def callback(stage):
        return Stopping(stop[1] if stage == stop[0] else 0)

    return execute(open_run(config, path, resume=True, make_callback=callback))


def weights(path):
    return {
        file.relative_to(path): load_tensors(file).tensors
        for file in sorted(path.glob("checkpoints/*/*.safetensors"))
    }


@pytest.fixture(scope="module")
def finished(log, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    results = run_all(settings(log, "lightgcn"), path)
    return path, results


def test_all_models_are_trained_again_for_the_selected_steps(finished):
    _, results = finished
    assert results["protocol"]["retrained"] is True
    assert set(results["retrained"]["models"]) == set(results["models"])
    assert set(results["models"]) == {"popularity", "repeat_last", *STAGES}  # targets repeat
    for stage in STAGES:
        selected, again = (part["models"][stage] for part in (results, results["retrained"]))
        assert again["steps"] == again["best_step"] == selected["best_step"]
        assert again.get("share") == selected.get("share")
        assert "valid" not in again
        assert again["test"] != selected["test"]
        assert selected["budget"]["data"] == "train"
        assert again["budget"]["data"] == "train and validation"
        assert selected["budget"]["optimiser_steps"] == selected["steps"]
        assert again["budget"]["optimiser_steps"] == again["steps"]
        assert (selected["budget"]["validations"] > 0, again["budget"]["validations"]) == (True, 0)
    assert (
        results["models"]["popularity"]["test"]
        != (results["retrained"]["models"]["popularity"]["test"])
    )


def test_retrained_models_are_evaluated_on_the_same_targets_with_the_merged_data(finished):
    path, results = finished
    run = open_run(read_config(path / "config.toml"), path, resume=True, make_callback=Stopping)
    merged = merge_valid(run.dataset)
    targets = cold_targets_of(targets_of(run.dataset, "test", "all"), merged)
    for stage in STAGES:
        model = load_model(path / "checkpoints" / f"{stage}_retrained", merged)
        assert (
            model.train_pairs.numel()
            > load_model(path / "checkpoints" / stage, run.dataset).train_pairs.numel()
        )
        means = evaluate_targets(model, merged, targets).means()
        recorded = results["retrained"]["models"][stage]["test"]
        assert recorded == pytest.approx(means, abs=1e-6)
    rows = pl.read_parquet(path / "per_user.parquet")
    states = rows.group_by("model").agg(pl.struct("user_id", "history").sort().alias("states"))
    assert set(states["model"]) >= {*STAGES, *(f"{stage}_retrained" for stage in STAGES)}
    assert states["states"].n_unique() == 1


def test_the_policy_of_the_retrained_model_has_the_fitted_temperature(finished):
    path, _ = finished
    run = open_run(read_config(path / "config.toml"), path, resume=True, make_callback=Stopping)
    rows = run.folder.metrics()
    fitted, again = (
        {row["temperature"] for row in rows if row["stage"] == stage}
        for stage in ("tuned", "tuned_retrained")
    )
    assert fitted == again
    assert len(fitted) == 1
    assert fitted != {1.0}


def test_the_record_has_strata_and_the_report_both_tables(finished):
    path, results = finished
    strata = results["models"]["base"]["strata"]
    repeats = strata["repeats"]
    assert (
        repeats["new"]["targets"] + repeats["repeat"]["targets"]
        == (results["protocol"]["n_targets"])
    )
    assert repeats["repeat"]["targets"] == results["protocol"]["repeated_targets"]
    assert strata["cold"]["cold"]["targets"] == results["protocol"]["cold_targets"] > 0
    assert strata["cold"]["cold"]["recall@10"] <= strata["cold"]["warm"]["recall@10"]
    page = write_report(path).read_text(encoding="utf-8")
    for words in (
        "Test results of the models trained again on train and validation",
        "Test results of the selected models, trained on train only",
        "All models are then trained again",
        "Results on new and on repeated items",
        "The last test event of each user is the target",
    ):
        assert words in page


def test_the_retrained_models_are_served(finished):
    path, _ = finished
    folder = RunFolder(path)
    dataset, (base, tuned) = load_served(folder, ["base", "tuned"])
    assert not len(dataset.valid.values)
    for stage, model in (("base", base), ("tuned", tuned)):
        expected = load_tensors(path / "checkpoints" / f"{stage}_retrained" / "best.safetensors")
        assert equal(model.state_dict(), expected.tensors)


@pytest.mark.parametrize("stop", [("base_retrained", 2), ("tuned_retrained", 1)])
def test_a_run_that_is_interrupted_while_training_again_ends_the_same(
    finished, log, tmp_path, stop
):
    path, results = finished
    config = settings(log, "lightgcn")
    with pytest.raises(KeyboardInterrupt):
        run_all(config, tmp_path / "run", stop)
    resumed = run_all(config, tmp_path / "run")
    ours, theirs = weights(tmp_path / "run"), weights(path)
    assert ours.keys() == theirs.keys()
    assert all(equal(ours[name], theirs[name]) for name in ours)
    assert resumed["retrained"]["comparisons"] == results["retrained"]["comparisons"]


def test_a_model_without_steps_is_built_again(log, tmp_path):
    results = run_all(settings(log, "popularity"), tmp_path / "run")
    selected, again = (part["models"]["base"] for part in (results, results["retrained"]))
    assert (again["steps"], selected["steps"]) == (0, 0)
    assert again["test"] != selected["test"]
