"""GRPO on models whose scores are no dot products."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from variants import DATASET, N_ITEMS, TUNABLE_SCORERS, build

from recoach.data.batches import EdgeBatches
from recoach.data.queries import Queries, user_queries
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.evaluation.evaluator import evaluate
from recoach.experiments.trainer import GRPOTrainer
from recoach.models.base import TrainingBatch, draw_negatives
from recoach.models.dense_softmax import catalogue_scores
from recoach.policy.policy import calibrate_temperature
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.registry import ALGORITHMS
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from toy_logs import block_graph

ESTIMATORS = {
    "exact": {},
    "exact with a reference": {"beta": 0.1, "entropy_coef": 0.01},
    "stratified": {"estimator": "stratified"},
    "sampled": {"estimator": "sampled", "loss_type": "grpo", "num_generations": 8},
    "sampled without replacement": {
        "estimator": "sampled",
        "loss_type": "grpo",
        "num_generations": 4,
        "replacement": False,
        "beta": 0.1,
        "kl_estimator": "k3",
    },
    "slate": {"estimator": "slate", "loss_type": "grpo", "num_generations": 4, "slate_length": 3},
}


def settings(algorithm="grpo", **changes):
    steps = {"max_steps": 6, "eval_steps": 3, "batch_size": 32, "learning_rate": 0.01}
    return ALGORITHMS[algorithm].config(**steps | changes)


OTHERS = {
    "reinforce": {"num_generations": 8},
    "raft": {"num_generations": 8},
    "top_k_off_policy": {},
    "s_dpo": {},
    "dqn": {},
    "trpo": {},
}


@pytest.mark.parametrize("algorithm", OTHERS)
@pytest.mark.parametrize("variant", TUNABLE_SCORERS)
def test_other_algorithms_tune_a_model_without_vectors(variant, algorithm):
    model = build(variant)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    args = settings(algorithm, select="last", **OTHERS[algorithm])
    result = GRPOTrainer(model, args=args, train_dataset=DATASET).train()
    assert result.steps == 6
    assert any(not torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(bool(torch.isfinite(t).all()) for t in model.state_dict().values())


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
@pytest.mark.parametrize("variant", TUNABLE_SCORERS)
def test_all_estimators_tune_a_model_without_vectors(variant, estimator):
    model = build(variant)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    args = settings(**ESTIMATORS[estimator], select="last")
    context = RunContext(seed=1)
    result = GRPOTrainer(model, args=args, train_dataset=DATASET, context=context).train()
    assert result.steps == 6
    assert all(torch.isfinite(p).all() for p in model.parameters())
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert len(moved) >= len(before) - 1  # a bias of all scores has no gradient


@pytest.mark.parametrize("variant", TUNABLE_SCORERS)
def test_grpo_improves_a_model_without_vectors(variant):
    dataset = leave_last_out(block_graph())
    model = build(variant, dataset)
    pretrain(
        model,
        dataset,
        PretrainConfig(epochs=1, batch_size=64, learning_rate=0.01, patience=0, eval_steps=10**6),
    )
    before = evaluate(model, dataset).means()["ndcg@10"]
    args = GRPOConfig(max_steps=60, eval_steps=20, batch_size=128, learning_rate=0.01, patience=0)
    GRPOTrainer(model, args=args, train_dataset=dataset).train()
    assert evaluate(model, dataset).means()["ndcg@10"] > before + 0.05


class StopAt(Callback):
    """Interrupts a run at a step, as Ctrl-C does."""

    def __init__(self, step):
        self.step = step

    def on_step(self, step, metrics):
        if step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("shared_dropout", [True, False])
@pytest.mark.parametrize("estimator", ["exact with a reference", "sampled"])
def test_an_interrupted_run_of_neumf_ends_with_the_bits_of_the_whole_one(
    estimator, shared_dropout, tmp_path
):
    args = settings(
        **ESTIMATORS[estimator],
        shared_dropout=shared_dropout,
        disable_dropout=False,
        select="last",
        eval_steps=2,
    )

    def train(folder, callback, *, resume=False):
        model = build("neumf")
        context = RunContext(folder=tmp_path / folder, seed=3, callback=callback, resume=resume)
        GRPOTrainer(model, args=args, train_dataset=DATASET, context=context).train()
        return model.state_dict()

    expected = train("whole", Callback())
    with pytest.raises(KeyboardInterrupt):
        train("part", StopAt(5))
    resumed = train("part", Callback(), resume=True)
    for name, weights in expected.items():
        assert torch.equal(resumed[name], weights), name
    assert not torch.equal(expected["output.weight"], build("neumf").output.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "ppo"}, "algorithm 'ppo'"),
        ({"algorithm": "sqn_actor_critic"}, "algorithm 'sqn_actor_critic'"),
        ({"algorithm": "dqn", "dueling": True}, "dueling = true"),
        ({"logits": "cosine"}, "logits = 'cosine'"),
        ({"logits": "norm_query"}, "logits = 'norm_query'"),
    ],
)
@pytest.mark.parametrize("variant", TUNABLE_SCORERS)
def test_what_needs_vectors_says_so(variant, changes, message):
    with pytest.raises(ConfigError, match=rf"{message} needs a vector for each state"):
        GRPOTrainer(build(variant), args=settings(**changes), train_dataset=DATASET)


@pytest.mark.parametrize("variant", TUNABLE_SCORERS)
def test_sharding_and_final_vectors_are_refused(variant):
    for changes, message in (
        ({"shard_items": True}, "shard_items is for SASRec and GRU4Rec"),
        ({"level": "final"}, "level = 'final' is for models that do nothing but propagate"),
    ):
        with pytest.raises(ConfigError, match=message):
            GRPOTrainer(build(variant), args=settings(**changes), train_dataset=DATASET)


@pytest.mark.parametrize("variant", TUNABLE_SCORERS)
def test_the_temperature_makes_the_validation_items_most_likely(variant):
    model = build(variant).eval()
    temperature = calibrate_temperature(model, DATASET, mask_seen=True)
    queries = user_queries(
        DATASET.train, np.arange(DATASET.n_users), model.history_length, N_ITEMS, mask_seen=True
    )
    targets = torch.from_numpy(DATASET.valid.values.astype(np.int64))

    def loss(temperature):
        scores = catalogue_scores(model, queries).index_put(
            queries.seen[:2], torch.tensor(-torch.inf)
        )
        return functional.cross_entropy(scores / temperature, targets)

    assert loss(temperature) < min(loss(temperature * 1.2), loss(temperature / 1.2))


def test_neumf_draws_negatives_from_the_generator_it_is_given():
    model = build("neumf").eval()
    edges = next(EdgeBatches(DATASET.train, batch_size=16).epoch(torch.Generator()))
    losses = [
        model.loss(TrainingBatch(edges=edges), torch.Generator().manual_seed(seed)).item()
        for seed in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_the_loss_of_neumf_is_the_cross_entropy_of_interactions_and_negatives():
    model = build("neumf", negatives=3).eval()
    edges = next(EdgeBatches(DATASET.train, batch_size=16).epoch(torch.Generator()))
    queries, users = edges.queries, edges.queries.state_users
    negatives = draw_negatives(
        model.train_pairs, users, N_ITEMS, 3, torch.Generator().manual_seed(1)
    )
    scores = model.score(queries, torch.cat([edges.targets[:, None], negatives], dim=1))
    labels = torch.tensor([1.0, 0, 0, 0]).expand(16, -1)
    expected = functional.binary_cross_entropy_with_logits(scores, labels, reduction="sum") / 16
    loss = model.loss(TrainingBatch(edges=edges), torch.Generator().manual_seed(1))
    assert torch.allclose(loss, expected)


def test_the_score_of_neumf_is_the_equation_of_the_paper():
    model = build("neumf", hidden_dims=(16, 8, 4)).double().eval()
    user, item = 3, 7
    queries = user_queries(DATASET.train, np.array([user]), 0, N_ITEMS, mask_seen=False)
    state = torch.cat([model.mlp_users.weight[user], model.mlp_items.weight[item]])
    layers = [m for m in model.other_layers if isinstance(m, torch.nn.Linear)]
    assert len(layers) == 2
    for layer in (model.first_layer, *layers):
        state = (layer.weight @ state + layer.bias).relu()
    products = model.gmf_users.weight[user] * model.gmf_items.weight[item]
    expected = model.output.weight[0] @ torch.cat([products, state])
    assert torch.allclose(model.score(queries)[0, item], expected)


def test_an_unknown_user_of_neumf_is_like_the_users_of_the_items_in_their_history():
    model = build("neumf").eval()
    history = torch.tensor([[0, 3, N_ITEMS, N_ITEMS]])
    queries = Queries(
        users=torch.tensor([-1]),
        history=history,
        lengths=torch.tensor([2]),
        rows=torch.tensor([0]),
        ends=torch.tensor([2]),
    )
    train = DATASET.train
    users_of = [[user for user in range(len(train)) if item in train.row(user)] for item in (0, 3)]
    for result, table in zip(
        model._users(queries), (model.gmf_users.weight, model.mlp_users.weight), strict=True
    ):
        expected = torch.stack([table[users].mean(dim=0) for users in users_of]).mean(dim=0)
        assert torch.allclose(result[0], expected, atol=1e-6)
    shorter = replace(queries, ends=torch.tensor([1]))
    assert torch.allclose(
        model._users(shorter)[0][0], model.gmf_users.weight[users_of[0]].mean(dim=0), atol=1e-6
    )
