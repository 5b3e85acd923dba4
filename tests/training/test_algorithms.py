"""Each algorithm's gradient by its formula, and each through the trainer."""

import pytest
import torch
from estimating import (
    DIM,
    ITEMS,
    VectorModel,
    algorithm_loss,
    loss_of,
    make_algorithm,
    make_batch,
    numbers,
    policy_of,
    roll_out,
    vectors,
)
from torch.nn import functional

from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.evaluation.evaluator import evaluate
from recoach.models.base import Embeddings
from recoach.models.checkpoint import load_tensors, save_tensors
from recoach.models.registry import build_model
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.grpo.sampled import SampledEstimator
from recoach.training.algorithms.registry import ALGORITHMS, algorithm_entry
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.trainer import RLTrainer
from toy_logs import cycle

DATASET = leave_last_out(cycle(24, 12, length=7))
ENCODER = {"dim": 8, "layers": 1, "heads": 2, "inner_dim": 16, "max_length": 6}
GROUPS = {"num_generations": 8}
SETTINGS = {name: {} for name in ALGORITHMS} | {
    "reinforce": GROUPS,
    "raft": GROUPS,
    "ppo": GROUPS,
    "s_dpo": {"beta": 0.5},
}
OTHERS = sorted(set(SETTINGS) - {"grpo", "imitation"})  # imitation gives up accuracy


def algorithm(name, given, **changes):
    dataset = leave_last_out(cycle(ITEMS, ITEMS, length=5))
    return make_algorithm(name, VectorModel(given), dataset, **SETTINGS[name] | changes)


def float_vectors(n_states, seed=0):
    """Return float32 vectors, as a head takes them."""
    return Embeddings(*(part.detach().float().requires_grad_() for part in vectors(n_states, seed)))


def gradients(loss, algorithm):
    return torch.autograd.grad(loss, algorithm.model.given)


def set_reference(algorithm, given):
    algorithm.reference.load_state_dict(VectorModel(given).state_dict())


def consecutive_items(high, shape, **_):
    """Stand for `torch.randint`: every item in turn."""
    return torch.arange(shape[0] * shape[1]).view(shape) % high


def build(**settings):
    return build_model("sasrec", DATASET, **ENCODER | settings)


class Steps(Callback):
    def __init__(self):
        self.logs = []

    def on_step(self, step, logs):
        self.logs.append(logs)


def tuned(model, name, folder=None, **settings):
    args = algorithm_entry(name).config(
        **{"batch_size": 24, "max_steps": 4, "select": "last"} | SETTINGS[name] | settings
    )
    steps = Steps()
    context = RunContext(callback=steps, folder=folder, resume=folder is not None)
    RLTrainer(model, args=args, train_dataset=DATASET, context=context).train()
    return steps.logs


@pytest.mark.parametrize(
    ("name", "objective"), [("reinforce", lambda p: p), ("raft", lambda p: p.log())]
)
def test_the_gradient_is_that_of_the_algorithms_objective(name, objective):
    few, copies = vectors(2), 60
    rewards = [(0, 1, 1.0), (1, 3, 1.0)]
    p = (few.users @ few.items.T / 0.7).softmax(dim=1)[[0, 1], [1, 3]]
    expected = torch.autograd.grad(objective(p).mean(), few)
    users = few.users.detach().repeat(copies, 1).requires_grad_()
    batch = make_batch([(s + 2 * c, i, v) for c in range(copies) for s, i, v in rewards])
    estimator = algorithm(name, few, num_generations=3000).estimator
    rollout = roll_out(estimator, Embeddings(users.detach(), few.items.detach()), batch)
    loss, _ = loss_of(estimator, Embeddings(users, few.items), batch, rollout)
    found = torch.autograd.grad(-loss, (users, few.items))
    by_state = found[0].view(copies, 2, DIM).sum(dim=0)
    for ours, theirs in ((by_state, expected[0]), (found[1], expected[1])):
        assert functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.98
        assert ours.norm().item() == pytest.approx(theirs.norm().item(), rel=0.06)


def test_the_advantages_of_reinforce_are_the_rewards():
    estimator = algorithm("reinforce", vectors(1)).estimator
    rollout = roll_out(estimator, vectors(1), make_batch([(0, 1, 0.5)]))
    assert torch.equal(rollout.advantages, rollout.rewards)


def test_raft_ignores_draws_of_negative_reward():
    parts = [torch.tensor([[1.0, -1.0, 0.0, 2.0], [-1.0, -2.0, 0.0, -1.0]])]
    estimator = algorithm("raft", vectors(2)).estimator
    policy = policy_of(estimator, vectors(2), make_batch([(0, 1, 1.0)], n_states=2))
    found = estimator.advantages(parts, policy)
    assert torch.allclose(found, torch.tensor([[4 / 3, 0, 0, 8 / 3], [0, 0, 0, 0]]))


def test_the_value_loss_trains_only_the_head():
    new, batch = float_vectors(2), make_batch([(0, 1, 1.0), (1, 3, 0.5)])
    ppo = algorithm("ppo", new, num_generations=50).estimator
    torch.nn.init.ones_(ppo.value.weight)
    policy = policy_of(ppo, new, batch)
    advantages = ppo.advantages([torch.rand(2, 50, generator=numbers())], policy)
    assert torch.autograd.grad(advantages.sum(), new, allow_unused=True) == (None, None)
    with torch.no_grad():
        rollout = roll_out(ppo, new, batch)
    loss, logs = loss_of(ppo, new, batch, rollout)
    policy_loss, _ = SampledEstimator.loss(ppo, policy_of(ppo, new, batch), batch, rollout, None)
    error = (ppo.value(new.users)[:, 0] - rollout.rewards.mean(dim=1)).square().mean()
    assert logs.means()["value_loss"].item() == pytest.approx(error.item())
    assert (loss - policy_loss).item() == pytest.approx(error.item(), rel=1e-5)
    moved = (torch.autograd.grad(each, new, retain_graph=True) for each in (loss, policy_loss))
    assert all(torch.equal(a, b) for a, b in zip(*moved, strict=True))
    of_head = (torch.autograd.grad(each, [*ppo.value.parameters()]) for each in (loss, error))
    assert all(torch.allclose(a, b) for a, b in zip(*of_head, strict=True))


def test_the_advantages_of_ppo_are_whitened_differences_to_the_value():
    new, batch = float_vectors(2), make_batch([(0, 1, 1.0)], n_states=2)
    ppo = algorithm("ppo", new, num_generations=50).estimator
    torch.nn.init.ones_(ppo.value.weight)
    rewards = torch.rand(2, 50, generator=numbers())
    found = ppo.advantages([rewards], policy_of(ppo, new, batch))
    beyond = rewards - new.users.sum(dim=1, keepdim=True)
    assert torch.allclose(found, (beyond - beyond.mean()) / beyond.std(), atol=1e-5)


def test_the_value_head_learns_the_expected_reward_of_a_state():
    new, batch = vectors(2), make_batch([(0, 1, 1.0)], n_states=2)
    ppo = algorithm("ppo", float_vectors(2), num_generations=2000).estimator
    optimiser = torch.optim.Adam(ppo.value.parameters(), lr=0.1)
    states = Embeddings(new.users.detach().float(), new.items.detach().float())
    for seed in range(200):
        rollout = roll_out(ppo, states, batch, numbers(seed))
        loss, logs = loss_of(ppo, states, batch, rollout)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    p = (states.users @ states.items.T / 0.7).softmax(dim=1)[0, 1]
    value = ppo.value(states.users)[:, 0]
    assert value.tolist() == pytest.approx([p.item(), 0.0], abs=0.03)
    assert logs.means()["value_loss"] < 0.01
    beyond = rollout.rewards - value[:, None].detach()
    assert (
        functional.cosine_similarity(
            rollout.advantages.flatten(), (beyond - beyond.mean()).flatten(), dim=0
        )
        > 0.999
    )


@pytest.mark.parametrize("is_far", [False, True])
def test_importance_weights_are_capped_and_vanish_for_certain_items(is_far):
    new, base = vectors(2), vectors(2, seed=5)
    batch = make_batch([(0, 1, 1.0), (1, 3, 0.5)])
    base = Embeddings(-6 * new.users.detach(), new.items.detach()) if is_far else base
    log_p, log_b = ((v.users @ v.items.T / 0.7).log_softmax(dim=1) for v in (new, base))
    pairs = ([0, 1], [1, 3])
    ratio = (log_p[pairs] - log_b[pairs]).detach().exp()
    assert bool((ratio > 20).any()) is is_far
    weight = ratio.clamp(max=20) * (1 - log_p[pairs].detach().exp()) ** 3
    expected = (torch.tensor([1.0, 0.5]) * weight * log_p[pairs]).sum() / 1.5
    top_k = algorithm("top_k_off_policy", new, top_k=4)
    set_reference(top_k, base)
    _, loss, _ = algorithm_loss(top_k, batch)
    assert loss.item() == pytest.approx(-expected.item(), rel=1e-6)
    for a, b in zip(gradients(loss, top_k), torch.autograd.grad(-expected, new), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_the_preference_loss_is_that_of_the_formula(monkeypatch):
    monkeypatch.setattr(torch, "randint", consecutive_items)
    drawn = consecutive_items(ITEMS, (2, 64)).tolist()
    new, base = vectors(2), vectors(2, seed=5)
    batch = make_batch([(0, 1, 1.0), (1, 3, 0.5)])
    gap = 0.5 * (
        (new.users @ new.items.T / 0.7).log_softmax(1)
        - (base.users @ base.items.T / 0.7).log_softmax(1).detach()
    )
    terms = []
    for state, item in ((0, 1), (1, 3)):
        others = [other for other in drawn[state] if other != item]
        against = (gap[state, others] - gap[state, item]).exp().sum().log()
        terms.append(-functional.logsigmoid(-against))
    expected = (terms[0] + 0.5 * terms[1]) / 1.5
    s_dpo = algorithm("s_dpo", new)
    set_reference(s_dpo, base)
    _, loss, _ = algorithm_loss(s_dpo, batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for a, b in zip(gradients(loss, s_dpo), torch.autograd.grad(expected, new), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("name", ["ppo", "snqn"])
def test_the_trainer_trains_the_head(name):
    args = algorithm_entry(name).config(batch_size=24, max_steps=3, select="last", **SETTINGS[name])
    trainer = RLTrainer(build(), args=args, train_dataset=DATASET)
    head = trainer.algorithm.modules["head"]
    before = [p.detach().clone() for p in head.parameters()]
    trainer.train()
    assert not any(torch.equal(a, b) for a, b in zip(before, head.parameters(), strict=True))


@pytest.mark.parametrize("name", OTHERS)
def test_every_algorithm_improves_a_half_trained_model(name):
    model = build()
    pretrain(model, DATASET, PretrainConfig(max_steps=2, batch_size=48, learning_rate=0.002))
    before = evaluate(model, DATASET).means()["ndcg@10"]
    rewards = {} if name == "ufrec" else {"reward_funcs": ("next",)}
    tuned(
        model,
        name,
        **rewards,
        temperature=1.0,
        max_steps=80,
        eval_steps=10,
        batch_size=48,
        learning_rate=0.01,
        select="best",
        patience=0,
    )
    assert evaluate(model, DATASET).means()["ndcg@10"] > before + 0.03


RESUMED = {
    "ppo": {},
    "sqn": {},
    "sqn, no target network": {"target": "random"},
    "sa2c, weighted from step 4": {"critic_warmup_steps": 3},
    "s_dpo": {},
    "dqn": {},
    "dqn, dueling, copied every 3 steps": {
        "dueling": True,
        "target_sync_steps": 3,
        "tau": 1.0,
    },
    "grpo, reference": {"beta": 0.5, "ref_model_sync_steps": 3},
    "grpo, reference and old policy": {
        "beta": 0.5,
        "ref_model_sync_steps": 3,
        "old_model_sync_steps": 3,
    },
    "top_k_off_policy, reference": {"ref_model_sync_steps": 3},
    "top_k_off_policy, head": {"behaviour": "head", "horizon": 1, "reward_funcs": ("next",)},
    "trpo, old policy": {"old_model_sync_steps": 3, "radius": "batch"},
    "mcrl": {},
    "off_policy_actor_critic": {"tau": 0.2},
    "ufrec": {"confidence": "permuted"},
    "ufrec, shuffled rewards": {"shuffle_rewards": "last_item"},
}


@pytest.mark.parametrize("case", RESUMED)
@pytest.mark.parametrize("stop", [3, 4])
def test_heads_target_networks_and_frozen_policies_are_resumed_to_the_last_bit(
    case, stop, tmp_path
):
    # A run that stops after step 3 has not yet synchronised at that step.
    name, settings = case.partition(",")[0], RESUMED[case] | {"learning_rate": 0.05}
    whole, interrupted = build(dropout=0.3), build(dropout=0.3)
    steps = tuned(whole, name, max_steps=8, **settings)
    tuned(interrupted, name, tmp_path, max_steps=stop, **settings)
    saved = load_tensors(tmp_path / "last.safetensors")
    save_tensors(tmp_path / "last.safetensors", saved.tensors, saved.state | {"finished": False})
    resumed = build(dropout=0.3)
    again = tuned(resumed, name, tmp_path, max_steps=8, **settings)
    assert [row["loss"] for row in again] == [row["loss"] for row in steps[stop:]]
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_no_algorithm_draws_from_the_global_random_state(name):
    changes = {"estimator": "sampled", "loss_type": "grpo"} | GROUPS if name == "grpo" else {}
    args = algorithm_entry(name).config(batch_size=24, temperature=1.0, **SETTINGS[name] | changes)
    model = build(dropout=0.0)
    state = torch.random.get_rng_state()
    trainer = RLTrainer(model, args=args, train_dataset=DATASET)
    batch = next(iter(trainer.epoch(numbers())))
    losses = []
    for _ in range(2):
        torch.random.set_rng_state(state)
        _, loss, _ = algorithm_loss(trainer.algorithm, batch, numbers(3))
        trainer.algorithm.after_step(1)
        assert torch.equal(torch.random.get_rng_state(), state)
        losses.append(loss.item())
        torch.rand(7)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_building_an_algorithm_leaves_the_global_random_state(name):
    model = build()
    state = torch.random.get_rng_state()
    args = algorithm_entry(name).config(temperature=1.0, **SETTINGS[name])
    RLTrainer(model, args=args, train_dataset=DATASET)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ["s_dpo", "snqn", "dqn"])
def test_negatives_come_from_the_generator(name):
    settings = SETTINGS[name] | {"num_negatives": 20}
    args = algorithm_entry(name).config(batch_size=24, temperature=1.0, **settings)
    trainer = RLTrainer(build(dropout=0.0), args=args, train_dataset=DATASET)
    batch = next(iter(trainer.epoch(numbers())))
    for module in trainer.algorithm.modules.values():
        for parameter in module.parameters():  # a head that starts at 0 tells no items apart
            parameter.data += 0.1
    losses = [algorithm_loss(trainer.algorithm, batch, numbers(s))[1].item() for s in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_after_step_is_called_once_for_each_step_before_the_next(monkeypatch, tmp_path):
    calls = []
    args = algorithm_entry("dqn").config(batch_size=24, max_steps=4, select="last")
    kind = type(RLTrainer(build(), args=args, train_dataset=DATASET).algorithm)
    monkeypatch.setattr(kind, "after_step", lambda self, step: calls.append(step))
    tuned(build(), "dqn", tmp_path, max_steps=2)
    saved = load_tensors(tmp_path / "last.safetensors")
    save_tensors(tmp_path / "last.safetensors", saved.tensors, saved.state | {"finished": False})
    tuned(build(), "dqn", tmp_path, max_steps=4)
    assert calls == [1, 2, 3]


def test_a_checkpoint_of_an_earlier_version_is_restored(tmp_path):
    tuned(build(), "ppo", tmp_path, max_steps=2, beta=0.5, ref_model_sync_steps=1)
    names = set(load_tensors(tmp_path / "last.safetensors").tensors)
    # The names that earlier versions wrote.
    assert {"companion.head.weight", "companion.head.bias"} <= names
    assert "companion.reference.items.weight" in names


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("reinforce", "ReinforceConfig"),
        ("raft", "RAFTConfig"),
        ("ppo", "PPOConfig"),
        ("top_k_off_policy", "TopKOffPolicyConfig"),
        ("s_dpo", "SDPOConfig"),
        ("sac", "SQNActorCriticConfig"),
    ],
)
def test_grpo_config_names_the_config_of_another_algorithm(name, config):
    with pytest.raises(ConfigError, match=f"use {config} from recoach.training.algorithms"):
        GRPOConfig(algorithm=name)


def test_a_config_accepts_the_name_of_its_own_algorithm_only():
    assert GRPOConfig(algorithm="grpo", beta=0.5) == GRPOConfig(beta=0.5)
    for name, entry in ALGORITHMS.items():
        assert entry.config().algorithm == name
        with pytest.raises(ConfigError, match=f"should be '{name}'"):
            entry.config(algorithm="another")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("ppo", {"estimator": "sampled"}, "estimator"),
        ("sqn_actor_critic", {"estimator": "exact"}, "estimator"),
        ("raft", {"loss_type": "grpo"}, "loss_type"),
        ("s_dpo", {"beta": 0.0}, "beta"),
        ("grpo", {"estimator": "slate"}, "'slate' has loss_type 'grpo' and 'dr_grpo'"),
        ("grpo", {"scale_rewards": "batch"}, "belongs to the estimators that draw"),
        ("dqn", {"logits": "cosine"}, "use logits = 'raw'"),
        ("dqn", {"reward_funcs": ("train_set",), "mask_seen": False}, "use 'next'"),
    ],
)
def test_invalid_settings_of_an_algorithm_are_refused(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        algorithm_entry(name).config(**settings)
