"""Training from scratch by the loop of fine-tuning."""

import polars as pl
import pytest
import torch

from recoach.data.dataset import merge_valid
from recoach.errors import ConfigError
from recoach.experiments.config import read_config
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.stages import execute, open_run
from recoach.models.checkpoint import load_tensors
from recoach.models.registry import build_model
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.registry import algorithm_entry
from recoach.training.callbacks import Callback
from recoach.training.trainer import RLTrainer

SEED = 7


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("logs") / "log.csv"
    rows = [(f"u{user}", f"i{(user + k) % 20}", 100 * k) for user in range(60) for k in range(8)]
    pl.DataFrame(rows, ["user_id", "item_id", "timestamp"], orient="row").write_csv(path)
    return path


def config_of(log, *changes):
    settings = [f'data.path="{log}"', f"seed={SEED}", "model.name=lightgcn", "model.dim=8"]
    settings += ["pretrain.epochs=1", "finetune.epochs=2", "finetune.start=scratch"]
    settings += ["finetune.batch_size=64", "evaluation.control=false", "evaluation.retrain=true"]
    return read_config(None, [*settings, *changes])


class Stopping(Callback):
    def __init__(self, step):
        self.step = step

    def on_step(self, step, logs):
        if step == self.step:
            raise KeyboardInterrupt


def run_all(config, path, stopped_stage=None):
    def callback(stage):
        return Stopping(2 if stage == stopped_stage else 0)

    return execute(open_run(config, path, resume=True, make_callback=callback))


def weights(path, stage):
    return load_tensors(path / "checkpoints" / stage / "best.safetensors").tensors


@pytest.fixture(scope="module")
def finished(log, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    return path, run_all(config_of(log), path)


def test_the_base_is_no_candidate_and_nothing_is_interpolated(finished):
    path, results = finished
    rows = [row for row in RunFolder(path).metrics() if row["stage"] == "tuned"]
    assert [row["step"] > 0 for row in rows] == [True, True]
    tuned = results["models"]["tuned"]
    assert tuned["best_step"] in [row["step"] for row in rows]
    assert "share" not in tuned
    assert results["protocol"]["selection"] == (
        "valid/ndcg@10, fine-tuning starts from fresh weights and the base is no candidate"
    )
    assert results["resolved"]["finetune.interpolate"] is False
    assert results["resolved"]["finetune.select"] == "best_tuned"
    assert results["resolved"]["finetune.temperature"] == 1.0
    assert "base" in results["models"]  # trained and compared all the same


def test_the_fresh_weights_are_those_that_the_base_began_with(log, tmp_path):
    tiny = ["finetune.learning_rate=1e-30", "pretrain.learning_rate=0.1"]
    run_all(config_of(log, *tiny), tmp_path / "run")
    dataset = open_run(
        config_of(log, *tiny), tmp_path / "run", resume=True, make_callback=lambda _: Callback()
    ).dataset
    for stage, data in (("tuned", dataset), ("tuned_retrained", merge_valid(dataset))):
        fresh = build_model("lightgcn", data, dim=8, seed=SEED).state_dict()
        trained = weights(tmp_path / "run", stage)
        base = weights(tmp_path / "run", stage.replace("tuned", "base"))
        for name, tensor in trained.items():
            assert torch.allclose(tensor, fresh[name].float(), atol=1e-6)
        assert not torch.allclose(base["items.weight"], trained["items.weight"], atol=1e-3)


def test_a_resumed_run_has_the_same_weights(log, finished, tmp_path):
    path, stage = tmp_path / "run", "tuned_retrained"
    with pytest.raises(KeyboardInterrupt):
        run_all(config_of(log), path, stage)
    results = run_all(config_of(log), path)
    tests = [r["retrained"]["models"]["tuned"]["test"] for r in (results, finished[1])]
    assert tests[0] == tests[1]
    for name, tensor in weights(finished[0], stage).items():
        assert torch.equal(tensor, weights(path, stage)[name])


def test_the_model_that_is_passed_in_python_is_no_candidate_either(log, tmp_path):
    run = open_run(
        config_of(log), tmp_path / "run", resume=True, make_callback=lambda _: Callback()
    )
    model = build_model("lightgcn", run.dataset, dim=8)
    args = GRPOConfig(start="scratch", learning_rate=1e-30, max_steps=2, eval_steps=1)
    trainer = RLTrainer(model, None, args, train_dataset=run.dataset)
    assert trainer.policy.temperature == 1.0
    result = trainer.train()
    assert (result.best_step, result.share) == (1, None)


@pytest.mark.parametrize(
    ("algorithm", "settings", "changes", "message"),
    [
        ("grpo", {"beta": 0.5}, {"ref_model_sync_steps": 5}, "beta compares the policy with"),
        ("s_dpo", {}, {"ref_model_sync_steps": 5}, "beta compares the policy with"),
        (
            "top_k_off_policy",
            {},
            {"behaviour": "head", "horizon": 1, "reward_funcs": ("next",)},
            "behaviour compares the policy with",
        ),
        (
            "top_k_off_policy",
            {"behaviour": "head", "horizon": 1, "reward_funcs": ("next",), "beta": 0.1},
            {"ref_model_sync_steps": 5},
            "beta compares the policy with",
        ),
        ("grpo", {"logits": "cosine"}, {"temperature": 0.1}, "nearly equal for all items; set a"),
    ],
)
def test_settings_that_need_a_base_are_refused(algorithm, settings, changes, message):
    config = algorithm_entry(algorithm).config
    with pytest.raises(ConfigError, match=message):
        config(start="scratch", **settings)
    config(start="scratch", **settings | changes)
    config(**settings)
