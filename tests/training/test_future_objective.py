"""Training of a base on its future items."""

import pytest
import torch

from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.evaluation.evaluator import evaluate
from recoach.models.registry import build_model
from recoach.training.algorithms.sft import SFTConfig
from recoach.training.context import RunContext
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.trainer import RLTrainer
from toy_logs import cycle

DATASET = leave_last_out(cycle(24, 12, length=7))
SETTINGS = {"batch_size": 32, "epochs": 4, "learning_rate": 3e-3, "patience": 0}


def sasrec():
    return build_model("sasrec", DATASET, dim=8, layers=1, heads=2, inner_dim=16, max_length=6)


def test_it_is_supervised_fine_tuning_from_scratch_with_the_settings_of_the_base():
    model, other = sasrec(), sasrec()
    config = PretrainConfig(objective="future", weight_decay=0.01, ema_decay=0.5, **SETTINGS)
    result = pretrain(model, DATASET, config, RunContext(seed=3))
    args = SFTConfig(start="scratch", temperature=1.0, weight_decay=0.01, ema_decay=0.5, **SETTINGS)
    RLTrainer(other, args=args, train_dataset=DATASET, context=RunContext(seed=3)).train()
    assert result.steps == 4 * 3
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_it_learns_and_leaves_the_best_weights_on_validation():
    model = sasrec()
    before = evaluate(model, DATASET, "valid").means()["ndcg@10"]
    config = PretrainConfig(objective="future", **SETTINGS | {"epochs": 12, "patience": 3})
    result = pretrain(model, DATASET, config)
    after = evaluate(model, DATASET, "valid").means()["ndcg@10"]
    assert after == pytest.approx(result.best_value, abs=1e-6)
    assert after > before + 0.1


def test_continued_training_may_return_its_start():
    model = sasrec()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = PretrainConfig(objective="future", **SETTINGS | {"learning_rate": 1e-9, "epochs": 1})
    result = pretrain(model, DATASET, config, start_is_candidate=True)
    assert result.best_step == 0
    assert all(torch.equal(t, start[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"optim": "adagrad"}, "optim"),
        ({"rows": "prefix"}, "rows"),
        ({"hold_out": 1}, "hold_out"),
        ({"event_weights": {"view": 1.0}}, "event_weights"),
        ({"shard_items": True}, "shard_items"),
        ({"lr_scheduler_type": "step"}, "lr_scheduler_type"),
    ],
)
def test_settings_of_the_own_loss_are_refused(changes, name):
    with pytest.raises(ConfigError, match=f"{name} = .* has no effect with objective"):
        PretrainConfig(objective="future", **changes)


def test_a_model_without_weights_is_refused():
    model = build_model("popularity", DATASET)
    with pytest.raises(ConfigError, match="Popularity has none"):
        pretrain(model, DATASET, PretrainConfig(objective="future"))
