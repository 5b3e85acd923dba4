"""Results on a GPU equal those on the CPU: models, softmax, training steps, whole runs."""

import contextlib

import numpy as np
import pytest
import torch

from recoach.data.batches import EdgeBatches, StateBatches
from recoach.data.queries import histories, user_queries
from recoach.data.split import leave_last_out
from recoach.evaluation.evaluator import evaluate
from recoach.experiments.trainer import GRPOTrainer
from recoach.models.base import Embeddings, TrainingBatch
from recoach.models.checkpoint import load_model, load_tensors
from recoach.models.registry import build_model
from recoach.models.softmax import BlockwiseDistribution
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.loop import stream
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from toy_logs import block_graph

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

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
all_models = pytest.mark.parametrize("name", MODELS)


def build_pair(name, dataset=DATASET):
    """Return two models with the same weights, on the CPU and on the GPU."""
    # Built twice, because copies of a model share its graph.
    cpu_model, gpu_model = (build_model(name, dataset, **MODELS[name], seed=2) for _ in range(2))
    return cpu_model, gpu_model.to("cuda")


def training_batches(model):
    generator = torch.Generator().manual_seed(0)
    batches = {}
    for kind in model.needs:
        if kind == "edges":
            loader = EdgeBatches(DATASET.train, batch_size=64)
        else:
            loader = StateBatches(
                DATASET.train, n_items=N_ITEMS, history_length=model.history_length, batch_size=64
            )
        batches[kind] = next(iter(loader.epoch(generator)))
    return batches


def move(batches, device):
    return TrainingBatch(
        **{
            kind: batch._replace(queries=batch.queries.to(device), targets=batch.targets.to(device))
            for kind, batch in batches.items()
        }
    )


@all_models
def test_scores_equal_those_on_the_cpu(name):
    """The tolerance for GRU4Rec is larger: recurrent layers of cuDNN use TensorFloat32."""
    cpu_model, gpu_model = build_pair(name)
    length = cpu_model.history_length or 4
    queries = user_queries(
        histories(DATASET, "test"), np.arange(20), length, N_ITEMS, mask_seen=False
    )
    cpu_scores = cpu_model.eval().score(queries)
    gpu_scores = gpu_model.eval().score(queries.to("cuda"))
    assert gpu_scores.device.type == "cuda"
    assert torch.allclose(gpu_scores.cpu(), cpu_scores, atol=2e-3 if name == "gru4rec" else 1e-5)


@all_models
def test_loss_and_gradients_equal_those_on_the_cpu(name):
    cpu_model, gpu_model = build_pair(name)
    batches, losses, gradients = training_batches(cpu_model), [], []
    for model, device in ((cpu_model.train(), "cpu"), (gpu_model.train(), "cuda")):
        loss = model.loss(move(batches, device), torch.Generator().manual_seed(1))
        loss.backward()
        losses.append(loss.item())
        grads = [p.grad.cpu().flatten() for p in model.parameters() if p.grad is not None]
        gradients.append(torch.cat(grads))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert torch.allclose(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)


@all_models
@pytest.mark.parametrize("mask_seen", ["all", "none"])
def test_metrics_equal_those_on_the_cpu(name, mask_seen):
    cpu_means, gpu_means = (
        evaluate(model, DATASET, "test", ks=(5, 10), mask_seen=mask_seen).means()
        for model in build_pair(name)
    )
    for metric, value in cpu_means.items():
        assert gpu_means[metric] == pytest.approx(value, abs=2 / N_USERS), metric


@pytest.mark.parametrize(("items", "tolerance"), [(300, 1e-4), (20_000, 2e-2)])
def test_the_blockwise_softmax_equals_cross_entropy(items, tolerance):
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(700, 64, generator=generator).cuda().requires_grad_()
    table = torch.randn(items, 64, generator=generator).mul_(0.3).cuda().requires_grad_()
    targets = torch.randint(items, (700,), generator=generator).cuda()
    distribution = BlockwiseDistribution(Embeddings(users, table))

    def loss(block):
        block_targets = targets[block.which]
        states = torch.arange(len(block_targets), device="cuda")
        return -block.log_p(states, block_targets).sum()

    result = distribution.loss(loss)
    expected = torch.nn.functional.cross_entropy(
        users.double() @ table.double().T, targets, reduction="sum"
    )
    assert result.item() == pytest.approx(expected.item(), rel=tolerance)
    for gradient, expected_gradient in zip(
        torch.autograd.grad(result, (users, table)),
        torch.autograd.grad(expected, (users, table)),
        strict=True,
    ):
        error = (gradient - expected_gradient).norm()
        assert error <= max(tolerance, 1e-3) * expected_gradient.norm()


ESTIMATORS = {
    "exact": {},
    "exact with KL": {"beta": 0.1},
    "sampled": {"estimator": "sampled", "loss_type": "grpo", "num_generations": 512},
    "sampled without replacement": {
        "estimator": "sampled",
        "loss_type": "grpo",
        "num_generations": 30,
        "replacement": False,
    },
    "stratified": {"estimator": "stratified", "num_negatives": 16},
}


def train_one_step(model, **settings):
    """Return the logged values of one training step and the gradient of the item embedding."""
    args = GRPOConfig(temperature=1.0, batch_size=256, learning_rate=1e-3, **settings)
    trainer = GRPOTrainer(model, args=args, train_dataset=DATASET)
    batch = next(iter(trainer.epoch(stream(0, "batches", 0))))
    logs = trainer.step(batch, stream(0, "step", 0))
    return logs, model.items.weight.grad.cpu()


@pytest.mark.parametrize("name", ["sasrec", "gsau", "lightgcn"])
@pytest.mark.parametrize("settings", ESTIMATORS.values(), ids=ESTIMATORS)
def test_a_step_has_the_gradient_of_the_cpu(name, settings):
    cpu_model, gpu_model = build_pair(name)
    cpu_logs, cpu_gradient = train_one_step(cpu_model, **settings)
    gpu_logs, gpu_gradient = train_one_step(gpu_model, **settings)
    cosine = torch.nn.functional.cosine_similarity(
        cpu_gradient.flatten(), gpu_gradient.flatten(), dim=0
    )
    is_sampled = settings.get("estimator", "exact") != "exact"
    assert cosine > (0.5 if is_sampled else 0.9999)
    if not is_sampled:
        assert gpu_logs["loss"] == pytest.approx(cpu_logs["loss"], rel=1e-3)


def test_each_step_draws_new_samples():
    _, model = build_pair("sasrec")
    args = GRPOConfig(
        temperature=1.0,
        estimator="sampled",
        loss_type="grpo",
        num_generations=8,
        learning_rate=1e-12,
        batch_size=256,
    )
    trainer = GRPOTrainer(model, args=args, train_dataset=DATASET)
    batch = next(iter(trainer.epoch(stream(0, "batches", 0))))
    grads = []
    for step in (0, 1, 0):
        trainer.step(batch, stream(0, "step", step))
        grads.append(model.items.weight.grad.clone())
    assert not torch.allclose(grads[0], grads[1], rtol=0.01)
    assert torch.allclose(grads[0], grads[2], rtol=1e-4, atol=1e-7)


class Interrupt(Callback):
    """Interrupts training at its n-th evaluation; never with n = 0."""

    def __init__(self, evaluation):
        self.remaining = evaluation

    def on_row(self, row):
        self.remaining -= 1
        if self.remaining == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["sasrec", "gsau", "lightgcn"])
def test_interrupted_training_resumes_and_its_model_loads_on_the_cpu(name, tmp_path):
    args = PretrainConfig(epochs=6, batch_size=64, learning_rate=0.02, patience=0, eval_steps=1)
    checkpoints = {}
    for run, interruptions in (("uninterrupted", [0]), ("resumed", [3, 0])):
        for evaluation in interruptions:
            model = build_model(name, DATASET, **MODELS[name], seed=2).to("cuda")
            context = RunContext(
                seed=1, folder=tmp_path / run, resume=True, callback=Interrupt(evaluation)
            )
            with contextlib.suppress(KeyboardInterrupt):
                pretrain(model, DATASET, args, context)
        checkpoints[run] = load_tensors(tmp_path / run / "last.safetensors")
    expected, resumed = checkpoints["uninterrupted"], checkpoints["resumed"]
    assert expected.state["step"] == resumed.state["step"]
    for key, tensor in expected.tensors.items():
        assert torch.allclose(resumed.tensors[key], tensor, rtol=1e-2, atol=1e-2), key
    gpu_ndcg = evaluate(model, DATASET, "test").means()["ndcg@10"]
    cpu_model = load_model(tmp_path / "resumed", DATASET)
    cpu_ndcg = evaluate(cpu_model, DATASET, "test").means()["ndcg@10"]
    assert cpu_ndcg == pytest.approx(gpu_ndcg, abs=0.02)
