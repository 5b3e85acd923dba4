"""The settings that the paper leaves open, each through the real trainer."""

import numpy as np
import pytest
import torch

from recoach.data.dataset import RaggedArray, drop_last
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.evaluation.evaluator import evaluate
from recoach.experiments.trainer import GRPOTrainer
from recoach.models.registry import build_model
from recoach.policy.policy import Policy, calibrate_temperature
from recoach.training.algorithms.grpo import exact, sampled
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.supervised import SupervisedTrainer
from toy_logs import cycle

N_ITEMS = 12
DATASET = leave_last_out(cycle(24, N_ITEMS, length=7))
ENCODER = {"dim": 8, "layers": 1, "heads": 2, "inner_dim": 16, "max_length": 6}
SAMPLED = {"estimator": "sampled", "loss_type": "grpo", "num_generations": 8}


GRAPHS = ("graphsage", "lightgcn", "ngcf")


class Steps(Callback):
    def __init__(self):
        self.logs = []

    def on_step(self, step, logs):
        self.logs.append(logs)


def build(name="sasrec", **settings):
    return build_model(name, DATASET, **({"dim": 8} if name in GRAPHS else ENCODER) | settings)


def tuned(model, folder=None, resume=False, **settings):
    """Fine-tune for a few steps; return the logs of each step."""
    seen = Steps()
    args = GRPOConfig(**{"batch_size": 24, "max_steps": 4, "select": "last"} | settings)
    context = RunContext(callback=seen, folder=folder, resume=resume)
    GRPOTrainer(model, args=args, train_dataset=DATASET, context=context).train()
    return seen.logs


def test_one_dropout_mask_makes_every_first_ratio_one():
    for shared, noisy in ((True, False), (False, True)):
        logs = tuned(build(dropout=0.5), **SAMPLED, disable_dropout=False, shared_dropout=shared)
        assert any(row["log_ratio/abs_mean"] > 0 for row in logs) is noisy


def test_with_one_dropout_mask_there_is_nothing_to_remember():
    weights = []
    for remembers in (None, True):
        model = build(dropout=0.5)
        args = GRPOConfig(
            disable_dropout=False, shared_dropout=True, batch_size=24, max_steps=3, select="last"
        )
        trainer = GRPOTrainer(model, args=args, train_dataset=DATASET)
        assert not trainer.algorithm.estimator.needs_rollout
        if remembers:
            trainer.algorithm.estimator.needs_rollout = True
        trainer.train()
        weights.append([p.detach().clone() for p in model.parameters()])
    for ours, theirs in zip(*weights, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("settings", [SAMPLED, {}], ids=["sampled", "exact"])
def test_an_old_policy_that_stays_leaves_the_new_one_behind_until_it_follows(settings, monkeypatch):
    ratios = []
    for module, name in ((exact, "exact_surrogate"), (sampled, "clipped_surrogate")):
        plain = getattr(module, name)

        def watched(new, old, *rest, plain=plain, name=name):
            gap = new if name == "clipped_surrogate" else new - old
            ratios.append(bool((gap.detach() != 0).any()))
            return plain(new, old, *rest)

        monkeypatch.setattr(module, name, watched)
    tuned(build(), **settings, old_model_sync_steps=2, learning_rate=0.05)
    assert ratios == [False, True, False, True]


def test_a_reference_that_follows_is_never_far():
    logs = tuned(build(), beta=1.0, ref_model_sync_steps=2, learning_rate=0.05)
    kl = [row["kl"] for row in logs]
    assert kl[0] == pytest.approx(0, abs=1e-6) == kl[2]
    assert kl[1] > 1e-4 < kl[3]


@pytest.mark.parametrize(
    "settings",
    [
        {"old_model_sync_steps": 3, **SAMPLED},
        {"ref_model_sync_steps": 3, "beta": 1.0},
        {"optim": "sgd", "learning_rate": 0.5},
    ],
    ids=["old", "reference", "sgd"],
)
@pytest.mark.filterwarnings("ignore:.*policy has collapsed")  # in a world without chance it does
def test_what_changes_beside_the_model_is_resumed(settings, tmp_path):
    whole, cut = build(), build()
    tuned(whole, **settings, max_steps=8)
    tuned(cut, tmp_path, **settings, max_steps=4)
    # The interrupted run saved after step 4, one step after the refresh at 3.
    state = build()
    again = _resumed(state, tmp_path, settings)
    assert [row["loss"] for row in again] == pytest.approx(
        [row["loss"] for row in tuned(build(), **settings, max_steps=8)[4:]], abs=0
    )
    for ours, theirs in zip(state.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def _resumed(model, folder, settings):
    from recoach.models.checkpoint import load_tensors, save_tensors

    saved = load_tensors(folder / "last.safetensors")
    save_tensors(folder / "last.safetensors", saved.tensors, saved.state | {"finished": False})
    return tuned(model, folder, resume=True, **settings, max_steps=8)


def test_propagated_vectors_may_move_as_if_they_were_tables():
    model = build("lightgcn")
    before = evaluate(model, DATASET).ranks
    users, items = (table.clone() for table in model.propagate())
    model.materialize_propagation()
    assert np.array_equal(evaluate(model, DATASET).ranks, before)
    assert torch.equal(model.users.weight, users)
    assert torch.equal(model.items.weight, items)
    tuned(model, level="final", trainable=("item",), learning_rate=0.05)
    assert torch.equal(model.propagate()[0], users)
    assert not torch.equal(model.propagate()[1], items)


@pytest.mark.parametrize("name", ["sasrec", "gsau"])
def test_only_what_does_nothing_but_propagate_can_settle(name):
    with pytest.raises(ConfigError, match="level = 'final'"):
        tuned(build(name), level="final")


@pytest.mark.parametrize("name", ["graphsage", "lightgcn", "ngcf"])
def test_a_settled_model_comes_back_from_its_folder(name, tmp_path):
    from recoach.models.checkpoint import load_model

    model = build(name)
    tuned(model, tmp_path, level="final", select="best")
    loaded = load_model(tmp_path, DATASET)
    assert loaded.config.layers == 0
    assert np.array_equal(evaluate(loaded, DATASET).ranks, evaluate(model, DATASET).ranks)


@pytest.mark.parametrize(("unit", "steps"), [("states", 4), ("users", 1), ("interactions", 5)])
def test_an_epoch_is_as_long_as_its_unit(unit, steps):
    # 24 users with 5 training items each: 96 prefixes, 120 interactions; 24 states a step.
    args = GRPOConfig(batch_size=24, epochs=2, epoch_unit=unit, patience=0)
    trainer = GRPOTrainer(build(), args=args, train_dataset=DATASET)
    assert len(trainer) == steps
    assert len(list(trainer.epoch(torch.Generator()))) == steps
    assert trainer.train().steps == 2 * steps


@pytest.mark.filterwarnings("ignore:.*policy has collapsed")  # in a world without chance it does
def test_the_best_tuned_weights_may_be_worse_than_the_base():
    model = build(dropout=0.1)
    pretrain(model, DATASET, PretrainConfig(epochs=30, batch_size=48, learning_rate=0.01))
    start = evaluate(model, DATASET, "valid").means()["ndcg@10"]
    tuned(model, select="best_tuned", learning_rate=1.0, eval_steps=1, patience=0)
    assert evaluate(model, DATASET, "valid").means()["ndcg@10"] < start


@pytest.mark.parametrize(
    ("logits", "ones"), [("norm_query", [True, False]), ("cosine", [True] * 2)]
)
def test_logits_may_be_of_unit_vectors(logits, ones):
    model = build().eval()
    (work,) = GRPOTrainer(
        model, args=GRPOConfig(batch_size=200, temperature=1.0), train_dataset=DATASET
    ).epoch(torch.Generator())
    plain = model.embed(work.queries)
    for vectors, raw, one in zip(
        Policy(logits=logits).embed(model, work.queries), plain, ones, strict=True
    ):
        norms = raw.norm(dim=1, keepdim=True)
        assert torch.allclose(vectors * norms if one else vectors, raw, atol=1e-6)
        assert bool(torch.allclose(vectors.norm(dim=1), torch.ones(len(raw)))) is one
    found = calibrate_temperature(model, DATASET, mask_seen=True, logits=logits)
    assert found != calibrate_temperature(model, DATASET, mask_seen=True)
    assert GRPOTrainer(
        model, args=GRPOConfig(logits=logits), train_dataset=DATASET
    ).policy == Policy(found, logits)


def test_groups_of_different_items_are_refused_where_there_are_too_few():
    # 12 items, 4 of them taken before the last state of the training.
    for count, mask_seen in ((9, True), (13, False)):
        groups = {"num_generations": count, "replacement": False, "mask_seen": mask_seen}
        with pytest.raises(
            ConfigError, match=f"num_generations = {count}: so many different items cannot be drawn"
        ):
            tuned(build(), **SAMPLED | groups)
        tuned(build(), **SAMPLED | groups | {"num_generations": count - 1})


@pytest.mark.parametrize("settings", [{"replacement": False}, {"dead_groups": "resample"}], ids=str)
def test_what_belongs_to_groups_is_refused_without_them(settings):
    with pytest.raises(ConfigError, match="belong to estimator 'sampled'"):
        GRPOConfig(**settings)


def test_items_held_out_are_not_trained_on_and_the_base_is_judged_with_all():
    rows = RaggedArray(np.array([0, 4, 5, 5]), np.array([1, 2, 3, 4, 9], dtype=np.int32))
    for count, wanted in ((0, [[1, 2, 3, 4], [9], []]), (1, [[1, 2, 3], [9], []])):
        assert [drop_last(rows, count).row(i).tolist() for i in range(3)] == wanted
    assert drop_last(rows, 9).row(0).tolist() == [1]
    model = build()
    trainer = SupervisedTrainer(model, PretrainConfig(hold_out=1, batch_size=500), DATASET)
    (batch,) = trainer.epoch(torch.Generator())
    pairs = set(
        zip(batch.states.queries.state_users.tolist(), batch.states.targets.tolist(), strict=True)
    )
    last = {(u, int(DATASET.train.row(u)[-1])) for u in range(24)}
    assert not pairs & last
    assert len(pairs) == 24 * 3
