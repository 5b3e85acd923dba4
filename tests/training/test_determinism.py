"""The same seed gives the same numbers; how far that carries."""

import pytest
import torch

from recoach.data.split import leave_last_out
from recoach.evaluation import evaluator
from recoach.evaluation.evaluator import evaluate
from recoach.experiments.trainer import GRPOTrainer
from recoach.models.registry import build_model
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.context import RunContext
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from toy_logs import block_graph

DATASET = leave_last_out(block_graph(24, 24, n_blocks=2, length=8))
SMALL = {"dim": 8, "layers": 1, "heads": 2, "inner_dim": 16, "max_length": 6}


def trained(seed=3, threads=1):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = build_model("sasrec", DATASET, **SMALL, seed=seed)
        pretrain(model, DATASET, PretrainConfig(epochs=2, batch_size=40), RunContext(seed=seed))
        args = GRPOConfig(epochs=2, batch_size=40)
        GRPOTrainer(model, args=args, train_dataset=DATASET, context=RunContext(seed=seed)).train()
    finally:
        torch.set_num_threads(before)
    return model.state_dict()


def test_the_same_seed_gives_the_same_weights_and_another_others():
    first, again, other = trained(), trained(), trained(seed=4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_threads_move_weights_by_roundings_at_most():
    first, again = trained(), trained(threads=2)
    for name, tensor in first.items():
        assert torch.allclose(tensor, again[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 5, 23])
def test_how_many_are_ranked_at_once_moves_no_rank(at_once, monkeypatch):
    model = build_model("sasrec", DATASET, **SMALL, seed=1)
    whole = evaluate(model, DATASET).ranks
    monkeypatch.setattr(evaluator, "_STATES_AT_ONCE", at_once)
    assert evaluate(model, DATASET).ranks.tolist() == whole.tolist()
