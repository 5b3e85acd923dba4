from dataclasses import replace

import numpy as np
import pytest
import torch

from recoach.data.dataset import RaggedArray
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.evaluation.evaluator import evaluate
from recoach.experiments.trainer import GRPOTrainer
from recoach.models.registry import build_model
from recoach.training.algorithms.dqn import DQNConfig
from recoach.training.algorithms.grpo import exact as exact_module
from recoach.training.algorithms.grpo import sampled as sampled_module
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.ppo import PPOConfig
from recoach.training.algorithms.s_dpo import SDPOConfig
from recoach.training.algorithms.supervised_q import SQNActorCriticConfig
from recoach.training.algorithms.top_k_off_policy import TopKOffPolicyConfig
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from toy_logs import block_graph, cycle

N_ITEMS = 12
DATASET = leave_last_out(cycle(24, N_ITEMS, length=7))
ENCODER = {"dim": 8, "layers": 1, "heads": 2, "inner_dim": 16, "max_length": 6}
SETTINGS = {
    "sasrec": ENCODER,
    "gsau": ENCODER | {"scorer": "fuse_emb"},
    "lightgcn": {"dim": 8},
}
SAMPLED = {"estimator": "sampled", "loss_type": "grpo", "num_generations": 32}


def build(name, **settings):
    return build_model(name, DATASET, **SETTINGS[name] | settings)


def tuned(model, dataset=DATASET, context=None, **settings):
    """Fine-tune for a few steps and return the outcome."""
    args = GRPOConfig(**{"batch_size": 48, "max_steps": 2, "select": "last"} | settings)
    return GRPOTrainer(model, args=args, train_dataset=dataset, context=context).train()


def copies(model):
    return {
        name: [p.detach().clone() for p in table]
        for name, table in model.parameter_groups().items()
    }


def same(before, after):
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.fixture
def log_ratios(monkeypatch):
    """Collect the log ratios of every update, whichever surrogate makes them."""
    found = []
    exact, clipped = exact_module.exact_surrogate, sampled_module.clipped_surrogate

    def record_exact(log_p, old_log_p, weight, clip):
        found.append((log_p - old_log_p).detach())
        return exact(log_p, old_log_p, weight, clip)

    def record_clipped(log_ratio, advantages, clip):
        found.append(log_ratio.detach())
        return clipped(log_ratio, advantages, clip)

    monkeypatch.setattr(exact_module, "exact_surrogate", record_exact)
    monkeypatch.setattr(sampled_module, "clipped_surrogate", record_clipped)
    return found


@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["exact", "sampled"])
@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_at_the_first_update_of_a_batch_every_ratio_is_exactly_one(name, settings, log_ratios):
    model = build(name).train()
    tuned(model, **settings, num_iterations=2, learning_rate=0.01)
    assert len(log_ratios) == 4
    assert all((ratio == 0).all() for ratio in log_ratios[0::2])
    assert all((ratio != 0).any() for ratio in log_ratios[1::2])


@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["exact", "sampled"])
def test_with_dropout_left_on_the_ratio_is_noise(settings, log_ratios):
    tuned(build("sasrec", dropout=0.5), **settings, shared_dropout=False)
    assert all((ratio != 0).any() for ratio in log_ratios)


@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["exact", "sampled"])
def test_how_often_the_clip_acts_is_logged(settings):
    rows = []

    class Listener(Callback):
        def on_step(self, step, logs):
            rows.append(logs)

    context = RunContext(callback=Listener())
    tuned(build("sasrec"), context=context, num_iterations=4, learning_rate=0.1, **settings)
    assert all(0 <= row[f"clip_ratio/{side}_mean"] <= 1 for row in rows for side in ("low", "high"))
    assert sum(row["clip_ratio/high_mean"] for row in rows) > 0
    assert all(row["grad_norm"] > 0 for row in rows[:1])


ABLATIONS = {
    "sasrec": [
        ("item",),
        ("position",),
        ("encoder",),
        ("item", "position"),
        ("item", "user", "position"),
    ],
    "lightgcn": [("item",), ("user",), ("item", "user"), ("item", "user", "position")],
    "gsau": [
        ("item",),
        ("user",),
        ("position",),
        ("item", "user"),
        ("item", "position"),
        ("item", "user", "position"),
        ("item", "user", "position", "encoder"),
    ],
}


@pytest.mark.parametrize(
    ("name", "trainable"), [(name, sets) for name in ABLATIONS for sets in ABLATIONS[name]]
)
def test_frozen_tables_stay_bitwise_and_the_others_move(name, trainable):
    model = build(name)
    before = copies(model)
    tuned(model, trainable=trainable, weight_decay=0.1, learning_rate=0.01)
    after = copies(model)
    for table in before:
        moved = [not torch.equal(a, b) for a, b in zip(before[table], after[table], strict=True)]
        assert any(moved) if table in trainable else not any(moved), table
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_user_table_of_gsau_has_no_gradient_where_the_sequence_alone_is_scored():
    model = build("gsau", scorer="seq")
    before = copies(model)
    tuned(model, trainable=("item", "user"), sft_coef=0)  # its own loss would move them
    assert same(before["user"], copies(model)["user"])
    assert not same(before["item"], copies(model)["item"])


def test_tables_the_model_does_not_have_are_an_error():
    with pytest.raises(ConfigError, match="names no table"):
        tuned(build("lightgcn"), trainable=("position",))


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_the_papers_setting_runs_on_every_backbone(name):
    model = build(name)
    before = copies(model)
    graph = {"state": "user", "reward_funcs": ["train_set"]} if name == "lightgcn" else {}
    args = GRPOConfig.paper(
        num_generations=64, epochs=1, batch_size=40, learning_rate=0.01, **graph
    )
    outcome = GRPOTrainer(model, args=args, train_dataset=DATASET).train()
    after = copies(model)
    assert outcome.steps >= 1
    assert not same(before["item"], after["item"])
    assert "encoder" not in before or same(before["encoder"], after["encoder"])


def test_a_policy_held_to_its_base_stays_nearer():
    found = {1e-6: [], 10.0: []}
    for beta, seen in found.items():

        class Listener(Callback):
            def on_step(self, step, logs, seen=seen):
                seen.append(logs["kl"])

        settings = {"beta": beta, "max_steps": 60, "patience": 0, "learning_rate": 0.01}
        tuned(build("lightgcn"), context=RunContext(callback=Listener()), **settings)
    assert found[10.0][0] == pytest.approx(0, abs=1e-6)
    assert found[10.0][-1] < 0.5 * found[1e-6][-1]


@pytest.fixture(scope="module")
def base():
    """Train a SASRec until it knows the cycle."""
    model = build("sasrec", dropout=0.1)
    pretrain(model, DATASET, PretrainConfig(epochs=30, batch_size=48, learning_rate=0.01))
    assert evaluate(model, DATASET, "valid").means()["ndcg@10"] > 0.9
    return model.state_dict()


@pytest.mark.filterwarnings("ignore:.*policy has collapsed")  # in a world without chance it does
def test_the_base_comes_back_where_nothing_is_better(base):
    model = build("sasrec", dropout=0.1)
    model.load_state_dict(base)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    outcome = tuned(model, learning_rate=1.0, max_steps=4, eval_steps=1, select="best", patience=0)
    assert (outcome.best_step, outcome.steps) == (0, 4)
    assert outcome.best_value == outcome.start_value
    assert all(torch.equal(t, start[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize(
    "settings",
    [{}, SAMPLED | {"num_generations": 512}, {"estimator": "stratified", "num_negatives": 6}],
    ids=["exact", "sampled", "stratified"],
)
def test_fine_tuning_makes_a_half_trained_model_better(settings):
    model = build("sasrec", dropout=0.1)
    pretrain(model, DATASET, PretrainConfig(max_steps=2, batch_size=48, learning_rate=0.002))
    before = evaluate(model, DATASET).means()["ndcg@10"]
    assert before < 0.8
    settings = settings | {"reward_funcs": ["next"], "temperature": 1.0}
    tuned(model, **settings, max_steps=60, learning_rate=0.01, select="best", patience=0)
    assert evaluate(model, DATASET).means()["ndcg@10"] > before + 0.05


def test_the_stratified_estimator_sees_its_candidates_alone():
    model = build("sasrec").eval()
    args = GRPOConfig(estimator="stratified", num_negatives=2, batch_size=4, horizon=1)
    trainer = GRPOTrainer(model, args=args, train_dataset=DATASET)
    batch = next(iter(trainer.epoch(torch.Generator().manual_seed(0))))
    batch = trainer._builder.restrict(batch, torch.Generator().manual_seed(1))
    policy = trainer.algorithm.distribution(model, batch)
    assert len(batch.candidates.items) < N_ITEMS
    assert torch.equal(policy.items, model.embed(batch.queries).items[batch.candidates.items])
    assert trainer.step(batch, torch.Generator())["grad_norm"] > 0


@pytest.mark.parametrize("reward", ["next", "future", "train_set"])
def test_rewards_never_hold_what_is_held_out(reward):
    dataset = leave_last_out(block_graph(20, 24, n_blocks=2, length=8))
    args = GRPOConfig(
        reward_funcs=(reward,), mask_seen=reward != "train_set", horizon=50, reward_smoothing=0
    )
    model = build_model("sasrec", dataset, **ENCODER)
    rewarded = set()
    for work in GRPOTrainer(model, args=args, train_dataset=dataset).epoch(torch.Generator()):
        users = work.queries.state_users[work.rewards.states]
        rewarded |= set(zip(users.tolist(), work.rewards.items.tolist(), strict=True))
    trained = {(u, int(i)) for u in range(20) for i in dataset.train.row(u)}
    assert rewarded <= trained
    first = {(u, int(dataset.train.row(u)[0])) for u in range(20)}
    assert rewarded == (trained if reward == "train_set" else trained - first)


def test_what_is_held_out_changes_no_smoothed_reward():
    dataset = leave_last_out(block_graph(20, 24, n_blocks=2, length=8))
    held = (dataset.valid, dataset.test)
    valid, test = (RaggedArray(part.offsets, (part.values + 1) % dataset.n_items) for part in held)
    other = replace(dataset, valid=valid, test=test)
    model = build_model("sasrec", dataset, **ENCODER)

    def rewards(data):
        args = GRPOConfig(temperature=1.0, batch_size=999)
        (work,) = GRPOTrainer(model, args=args, train_dataset=data).epoch(torch.Generator())
        return work.rewards

    pairs = zip(rewards(dataset)[:4], rewards(other)[:4], strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.parametrize(
    ("mask_seen", "protocol", "masked"),
    [
        (True, "all", True),
        (False, "new", False),
        ("auto", "new", True),
        ("auto", "all", False),
        ("auto", "recbole", False),
    ],
)
def test_an_item_the_policy_masks_earns_nothing(mask_seen, protocol, masked):
    rows = [[0, 1, 0, 2, 1, 3], [4, 4, 4, 5]]
    offsets = np.cumsum([0] + [len(row) for row in rows] + [0] * (DATASET.n_users - 2))
    train = RaggedArray(offsets.astype(np.int64), np.concatenate(rows).astype(np.int32))
    dataset = replace(DATASET, train=train)
    args = GRPOConfig(mask_seen=mask_seen, temperature=1.0, batch_size=999)
    context = RunContext(repeats=protocol)
    trainer = GRPOTrainer(build("sasrec"), args=args, train_dataset=dataset, context=context)
    (work,) = trainer.epoch(torch.Generator())
    repeated = 0
    for state, item in zip(work.rewards.states.tolist(), work.rewards.items.tolist(), strict=True):
        row, end = work.queries.rows[state], work.queries.ends[state]
        repeated += item in work.queries.history[row, :end].tolist()
    assert (repeated == 0) is masked
    assert (work.queries.seen is not None) is masked


def test_a_base_that_comes_back_is_told_of(caplog, monkeypatch):
    base = build("sasrec")
    before = {name: p.clone() for name, p in base.state_dict().items()}
    args = GRPOConfig(max_steps=2, learning_rate=1e-30)
    outcome = GRPOTrainer(base, args=args, train_dataset=DATASET).train()
    assert outcome.best_step == 0
    assert all(torch.equal(before[name], p) for name, p in base.state_dict().items())
    assert "No step of GRPO was better than the base on validation (ndcg@10 0." in caplog.text
    caplog.clear()
    monkeypatch.setattr("recoach.distributed.is_main_process", lambda: False)
    GRPOTrainer(base, args=args, train_dataset=DATASET).train()
    assert not caplog.text
    monkeypatch.undo()
    trained = GRPOTrainer(base, args=GRPOConfig(epochs=20), train_dataset=DATASET).train()
    assert trained.best_step
    GRPOTrainer(
        base,
        args=GRPOConfig(max_steps=2, learning_rate=1e-30, select="last"),
        train_dataset=DATASET,
    ).train()
    assert not caplog.text


def test_drift_and_temperature_are_reported():
    model = build("lightgcn")
    trainer = GRPOTrainer(model, args=GRPOConfig(temperature=0.5), train_dataset=DATASET)
    assert trainer.diagnostics() == {"drift/user": 0, "drift/item": 0, "temperature": 0.5}
    with torch.no_grad():
        model.items.weight *= 1.5
    assert trainer.diagnostics()["drift/item"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": "sampled", "loss_type": "log"}, "needs estimator 'exact'"),
        ({"estimator": "sampled", "loss_type": "pass_at_k"}, "needs estimator 'exact'"),
        ({"kl_estimator": "k3"}, "needs samples"),
        ({"reward_funcs": ["train_set"]}, "mask_seen = false"),
        ({"state": "user", "mask_seen": False}, "has no next item"),
        ({"temperature": 0.0}, "positive or 'auto'"),
        ({"trainable": ()}, "names no table"),
        ({"trainable": ("weights",)}, "trainable"),
        ({"num_generations": 1}, "num_generations"),
        ({"epsilon": 1.0}, "epsilon"),
        ({"learning_rat": 1.0}, "learning_rat"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        GRPOConfig(**settings)


def test_the_papers_setting_is_the_papers():
    paper = GRPOConfig.paper(beta=0.5)
    assert (paper.estimator, paper.loss_type, paper.group_size) == ("sampled", "grpo", 4096)
    assert (paper.kl_estimator, paper.beta, paper.mask_seen) == ("literal", 0.5, False)
    assert (paper.select, paper.trainable) == ("last", ("item", "user", "position"))


@pytest.mark.parametrize(
    ("settings", "exact"),
    [
        ({}, False),
        ({"beta": 0.1}, False),  # the KL is computed from the difference of the vectors
        (SAMPLED | {"beta": 0.1, "kl_estimator": "k3"}, True),
        (SAMPLED, False),
        (SAMPLED | {"num_iterations": 2}, True),
        (SAMPLED | {"old_model_sync_steps": 3}, True),
        (SDPOConfig(), True),
        (TopKOffPolicyConfig(), True),
        (DQNConfig(), True),
        (SQNActorCriticConfig(), False),
        (PPOConfig(), False),
        (PPOConfig(num_iterations=2), True),
    ],
)
def test_products_are_not_rounded_where_policies_are_compared(settings, exact):
    args = GRPOConfig(**settings) if isinstance(settings, dict) else settings
    trainer = GRPOTrainer(build("sasrec"), args=args, train_dataset=DATASET)
    assert trainer.policy.exact_products is exact
