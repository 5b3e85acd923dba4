"""The loss of a training step and of a GRPO step is one graph for `torch.compile`.

The graph is traced and run as it is (backend "eager"): what is tested is that nothing in it depends
on values, and that the loss is that of the ordinary code.
"""

import pytest
import torch
from variants import DATASET, UNTRAINED, build

from recoach.models.registry import MODELS
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.supervised import SupervisedTrainer
from recoach.training.trainer import RLTrainer

pytestmark = [  # warnings of the tracer about its own code
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
FAST = ("lightgcn", "sasrec")
NOT_TRACED = {
    ("neumf", "grpo"): "scores twice with the dropout masks of one seed, set in between",
    ("tagnn", "grpo"): "as neumf, and as its supervised loss",
    ("tagnn", "supervised"): "groups states by their numbers of nodes",
}
"""Losses that are not one graph, and why."""
CASES = [
    pytest.param(name, kind, marks=() if name in FAST else pytest.mark.slow)
    for name in sorted(set(MODELS) - set(UNTRAINED))
    for kind in ("supervised", "grpo")
]


@pytest.fixture(autouse=True)
def _traced():
    """Let PyTorch trace `torch.autograd.grad` in a function of autograd, and recurrent layers."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True, allow_rnn=True):
        yield
    torch._dynamo.reset()


def supervised_loss(name):
    """Return a function of a batch with its draws, and the batch."""
    model, generator = build(name).train(), torch.Generator()
    trainer = SupervisedTrainer(model, PretrainConfig(batch_size=64), DATASET)
    batch = next(trainer.epoch(torch.Generator().manual_seed(0)))
    batch = batch._replace(draws=model.draws_of(batch, generator))
    return model, lambda batch: model.loss(batch, generator), batch


def grpo_loss(name):
    """Return a function of a batch, and the batch.

    The dropout seed is set before the function is called, as the training loop does.
    """
    args, generator = GRPOConfig(batch_size=64, beta=1.0), torch.Generator()
    trainer = RLTrainer(build(name), args=args, train_dataset=DATASET)
    trainer.model.train()
    batch = next(trainer.epoch(torch.Generator().manual_seed(0)))
    with torch.no_grad():
        prepared = trainer.algorithm.prepare(batch._replace(dropout_seed=0), generator)
    return (
        trainer.model,
        lambda batch: trainer.algorithm.loss(batch, prepared, generator)[0],
        batch,
    )


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_loss_is_one_graph(name, kind):
    model, loss, batch = {"supervised": supervised_loss, "grpo": grpo_loss}[kind](name)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.manual_seed(0)
    expected = loss(batch)
    slopes = gradients(model, expected)
    torch.manual_seed(0)
    if (name, kind) in NOT_TRACED:
        with pytest.raises(Exception, match=r"(?i)unsupported|data-dependent|skipped"):
            compiled(batch)
        return
    result = compiled(batch)
    assert torch.allclose(result, expected, rtol=1e-6)
    for slope, other in zip(slopes, gradients(model, result), strict=True):
        assert torch.allclose(slope, other, atol=1e-6)
