"""The same numbers on a GPU as on the CPU: models, softmax, steps, whole runs."""

import contextlib

import numpy as np
import pytest
import torch

from recoach.data.batches import EdgeBatches, StateBatches, histories, user_queries
from recoach.data.split import leave_last_out
from recoach.evaluation.evaluator import evaluate
from recoach.models.base import TrainingBatch
from recoach.models.checkpoint import load_model, load_tensors
from recoach.models.registry import build_model
from recoach.models.softmax import Catalogue, softmax_loss
from recoach.simulation.toy_logs import block_graph
from recoach.training.callbacks import Callback
from recoach.training.config import GRPOConfig
from recoach.training.loop import RunContext, stream
from recoach.training.supervised import PretrainConfig, pretrain
from recoach.training.trainer import GRPOTrainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

N_USERS, N_ITEMS = 60, 40
DATASET = leave_last_out(block_graph(N_USERS, N_ITEMS, n_blocks=2, length=9))
ENCODER = {"dim": 16, "layers": 1, "heads": 2, "inner_dim": 32, "max_length": 6, "dropout": 0.0}
MODELS = {
    "sasrec": ENCODER,
    "gsau": ENCODER,
    "lightgcn": {"dim": 16},
    "bprmf": {"dim": 16},
    "gru4rec": {"dim": 16, "hidden_dim": 24, "max_length": 6, "dropout": 0.0},
}
EVERY = pytest.mark.parametrize("name", MODELS)


def twins(name, dataset=DATASET):
    """Return a model and its like on the GPU, each with a graph of its own."""
    here, there = (build_model(name, dataset, **MODELS[name], seed=2) for _ in range(2))
    return here, there.to("cuda")


def training_batch(model):
    numbers = torch.Generator().manual_seed(0)
    kinds = {}
    for kind in model.needs:
        if kind == "edges":
            loader = EdgeBatches(DATASET.train, batch_size=64)
        else:
            loader = StateBatches(
                DATASET.train, n_items=N_ITEMS, history_length=model.history_length, batch_size=64
            )
        kinds[kind] = next(iter(loader.epoch(numbers)))
    return kinds


def to(batches, device):
    return TrainingBatch(
        **{
            kind: batch._replace(queries=batch.queries.to(device), targets=batch.targets.to(device))
            for kind, batch in batches.items()
        }
    )


@EVERY
def test_scores_are_those_of_the_cpu(name):
    """cuDNN's recurrent layers multiply in TensorFloat32."""
    here, there = twins(name)
    length = here.history_length or 4
    queries = user_queries(
        histories(DATASET, "test"), np.arange(20), length, N_ITEMS, mask_seen=False
    )
    wanted, found = here.eval().score(queries), there.eval().score(queries.to("cuda"))
    assert found.device.type == "cuda"
    assert torch.allclose(found.cpu(), wanted, atol=2e-3 if name == "gru4rec" else 1e-5)


@EVERY
def test_loss_and_gradients_are_those_of_the_cpu(name):
    here, there = twins(name)
    batches, gradients = training_batch(here), []
    for model, device in ((here.train(), "cpu"), (there.train(), "cuda")):
        loss = model.loss(to(batches, device), torch.Generator().manual_seed(1))
        loss.backward()
        parts = [p.grad.cpu().flatten() for p in model.parameters() if p.grad is not None]
        gradients.append((loss.item(), torch.cat(parts)))
    assert gradients[1][0] == pytest.approx(gradients[0][0], rel=1e-4)
    assert torch.allclose(gradients[1][1], gradients[0][1], rtol=1e-3, atol=1e-5)


@EVERY
@pytest.mark.parametrize("mask_seen", ["all", "none"])
def test_ranks_are_those_of_the_cpu(name, mask_seen):
    here, there = twins(name)
    wanted, found = (
        evaluate(model, DATASET, "test", ks=(5, 10), mask_seen=mask_seen).means()
        for model in (here, there)
    )
    for metric, value in wanted.items():
        assert found[metric] == pytest.approx(value, abs=2 / N_USERS), metric


@pytest.mark.parametrize(("items", "tolerance"), [(300, 1e-4), (20_000, 2e-2)])
def test_the_blockwise_softmax_is_the_plain_formula(items, tolerance):
    numbers = torch.Generator().manual_seed(0)
    users = torch.randn(700, 64, generator=numbers).cuda().requires_grad_()
    table = torch.randn(items, 64, generator=numbers).mul_(0.3).cuda().requires_grad_()
    targets = torch.randint(items, (700,), generator=numbers).cuda()
    catalogue = Catalogue(table, len(users))

    def loss(block):
        mine = targets[block.which]
        return -block.log_p(torch.arange(len(mine), device="cuda"), mine).sum()

    found = softmax_loss(users, table, loss, catalogue)
    plain = torch.nn.functional.cross_entropy(
        users.double() @ table.double().T, targets, reduction="sum"
    )
    assert found.item() == pytest.approx(plain.item(), rel=tolerance)
    for mine, wanted in zip(
        torch.autograd.grad(found, (users, table)),
        torch.autograd.grad(plain, (users, table)),
        strict=True,
    ):
        assert (mine - wanted).norm() <= max(tolerance, 1e-3) * wanted.norm()


ESTIMATORS = {
    "exact": {},
    "exact with KL": {"beta": 0.1},
    "sampled": {"estimator": "sampled", "loss_type": "grpo", "num_generations": 512},
    "sampled apart": {
        "estimator": "sampled",
        "loss_type": "grpo",
        "num_generations": 30,
        "replacement": False,
    },
    "stratified": {"estimator": "stratified", "num_negatives": 16},
}


def stepped(model, **settings):
    """Return the gradient of one step of the trainer as it reaches the items' table."""
    args = GRPOConfig(temperature=1.0, batch_size=256, learning_rate=1e-3, **settings)
    trainer = GRPOTrainer(model, args=args, train_dataset=DATASET)
    batch = next(iter(trainer.epoch(stream(0, "batches", 0))))
    logged = trainer.step(batch, stream(0, "step", 0))
    return logged, model.items.weight.grad.cpu()


@pytest.mark.parametrize("name", ["sasrec", "gsau", "lightgcn"])
@pytest.mark.parametrize("settings", ESTIMATORS.values(), ids=ESTIMATORS)
def test_a_step_climbs_as_on_the_cpu(name, settings):
    here, there = twins(name)
    (wanted, gradient), (found, same) = stepped(here, **settings), stepped(there, **settings)
    cosine = torch.nn.functional.cosine_similarity(gradient.flatten(), same.flatten(), dim=0)
    drawn = settings.get("estimator", "exact") != "exact"
    assert cosine > (0.5 if drawn else 0.9999)
    if not drawn:
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-3)


def test_each_step_draws_anew():
    _, there = twins("sasrec")
    args = GRPOConfig(
        temperature=1.0,
        estimator="sampled",
        loss_type="grpo",
        num_generations=8,
        learning_rate=1e-12,
        batch_size=256,
    )
    trainer = GRPOTrainer(there, args=args, train_dataset=DATASET)
    batch = next(iter(trainer.epoch(stream(0, "batches", 0))))
    grads = []
    for step in (0, 1, 0):
        trainer.step(batch, stream(0, "step", step))
        grads.append(there.items.weight.grad.clone())
    assert not torch.allclose(grads[0], grads[1], rtol=0.01)
    assert torch.allclose(grads[0], grads[2], rtol=1e-4, atol=1e-7)


class Interrupts(Callback):
    """Stops the first training at its third evaluation."""

    def __init__(self, after):
        self.left = after

    def on_row(self, row):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["sasrec", "gsau", "lightgcn"])
def test_training_goes_on_where_it_stopped_and_is_read_on_the_cpu(name, tmp_path):
    args = PretrainConfig(epochs=6, batch_size=64, learning_rate=0.02, patience=0, eval_steps=1)
    ends = {}
    for run, stops in (("whole", [0]), ("part", [3, 0])):
        for after in stops:
            model = build_model(name, DATASET, **MODELS[name], seed=2).to("cuda")
            context = RunContext(
                seed=1, folder=tmp_path / run, resume=True, callback=Interrupts(after)
            )
            with contextlib.suppress(KeyboardInterrupt):
                pretrain(model, DATASET, args, context)
        ends[run] = load_tensors(tmp_path / run / "last.safetensors")
    assert ends["whole"].state["step"] == ends["part"].state["step"]
    for key, tensor in ends["whole"].tensors.items():
        assert torch.allclose(ends["part"].tensors[key], tensor, rtol=1e-2, atol=1e-2), key
    there = evaluate(model, DATASET, "test").means()["ndcg@10"]
    here = evaluate(load_model(tmp_path / "part", DATASET), DATASET, "test").means()["ndcg@10"]
    assert here == pytest.approx(there, abs=0.02)
