"""Run folders from Python, with models of one's own."""

import json

import pytest
import torch
from torch import nn

import recoach
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError, RunError
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.served import load_served
from toy_logs import cycle
from toy_models import TOWERS

DATA = leave_last_out(cycle(24, 12, length=7))
QUICK = {
    "pretrain.epochs": 3,
    "pretrain.batch_size": 48,
    "finetune.max_steps": 4,
    "finetune.eval_steps": 2,
}


def build_scorer(dataset: recoach.Dataset, *, dim: int = 4):
    """A function inside a test: a scorer without a loss, as of a notebook."""
    module = nn.ModuleDict({"table": nn.Embedding(dataset.n_items + 1, dim)})

    def score(module, users, histories, items):
        users_vectors = module["table"](histories).mean(dim=1)
        vectors = module["table"](items)
        if items.ndim == 1:
            return users_vectors @ vectors.T
        return torch.einsum("bd,bcd->bc", users_vectors, vectors)

    return recoach.wrap(module, dataset, score=score, history_length=3)


def test_a_run_of_ones_own_model_has_base_tuned_and_control(tmp_path, monkeypatch):
    (tmp_path / "my_towers.py").write_text(TOWERS)
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "run"
    results = recoach.run(DATA, "my_towers:build", out, QUICK | {"model.dim": 6})
    assert set(results["models"]) >= {"base", "tuned", "control"}
    assert results["protocol"]["control_missing"] is None
    assert (out / "report.html").exists()
    assert results["config"]["model"] == {"name": "my_towers:build", "dim": 6}
    description = json.loads((out / "checkpoints" / "base" / "model.json").read_text())
    assert description["model"] == "my_towers:build"
    assert description["config"] == {"dim": 6}
    assert recoach.run(DATA, "my_towers:build", out, QUICK | {"model.dim": 6}) == results
    with pytest.raises(RunError, match=r"another model.dim"):
        recoach.run(DATA, "my_towers:build", out, QUICK | {"model.dim": 7})
    other = leave_last_out(cycle(23, 12, length=7))
    with pytest.raises(RunError, match="made with another dataset"):
        recoach.run(other, "my_towers:build", out, QUICK | {"model.dim": 6})


def test_a_model_without_a_loss_is_fine_tuned_and_has_no_control(tmp_path):
    results = recoach.run(DATA, build_scorer, tmp_path / "run", QUICK)
    assert "control" not in results["models"]
    assert "no loss of its own" in results["protocol"]["control_missing"]
    assert results["models"]["base"]["steps"] == 0
    assert results["models"]["tuned"]["steps"] > 0
    dataset, (model,) = load_served(RunFolder(tmp_path / "run"), ["tuned"])
    assert recoach.recommend(model, dataset, [dataset.user_ids[0]], k=3).height == 3


def test_settings_are_checked(tmp_path):
    with pytest.raises(ConfigError, match="settings: finetune: there is no setting 'betta'"):
        recoach.run(DATA, "sasrec", tmp_path / "run", {"finetune.betta": 1})
    assert not (tmp_path / "run").exists()
