"""Rival algorithms: each one's gradient by its formula, and each through the trainer."""

from dataclasses import replace

import pytest
import torch
from estimating import DIM, ITEMS, numbers, task, vectors
from pydantic import ValidationError
from torch.nn import functional

from recoach.data.split import leave_last_out
from recoach.evaluation.evaluator import evaluate
from recoach.models.base import Embeddings
from recoach.models.registry import build_model
from recoach.policy.policy import Policy
from recoach.policy.reward_funcs import future
from recoach.policy.rewards import CombinedReward
from recoach.training.algorithms import estimator_for
from recoach.training.callbacks import Callback
from recoach.training.config import GRPOConfig
from recoach.training.loop import RunContext
from recoach.training.rivals import _next_states
from recoach.training.sampled import SampledEstimator
from recoach.training.supervised import PretrainConfig, pretrain
from recoach.training.trainer import GRPOTrainer
from toy_logs import cycle

DATASET = leave_last_out(cycle(24, 12, length=7))
ENCODER = {"dim": 8, "layers": 1, "heads": 2, "inner_dim": 16, "max_length": 6}
DRAWN = {"estimator": "sampled", "num_generations": 8}
RIVALS = {
    "reinforce": DRAWN,
    "raft": DRAWN,
    "ppo": DRAWN,
    "top_k_off_policy": {},
    "s_dpo": {"beta": 0.5},
    "sac": {},
}


class Vectors(torch.nn.Module):
    """Stands for a model: only the size of its vectors is asked for."""

    device = torch.device("cpu")

    def embed(self, queries):
        return Embeddings(torch.zeros(len(queries), DIM), torch.zeros(ITEMS, DIM))


def rival(algorithm, **changes):
    args = GRPOConfig(algorithm=algorithm, temperature=0.7, **RIVALS[algorithm] | changes)
    return estimator_for(args, Policy(0.7), CombinedReward([future()]), Vectors())


def leaves(n_states, seed=0):
    """Return float32 vectors, as a head takes them."""
    return Embeddings(*(part.detach().float().requires_grad_() for part in vectors(n_states, seed)))


def in_turn(high, shape, **_):
    """Stand for `torch.randint`: each item in its turn."""
    return torch.arange(shape[0] * shape[1]).view(shape) % high


def build(**settings):
    return build_model("sasrec", DATASET, **ENCODER | settings)


class Steps(Callback):
    def __init__(self):
        self.logs = []

    def on_step(self, step, logs):
        self.logs.append(logs)


def tuned(model, algorithm, folder=None, **settings):
    args = GRPOConfig(
        **{"algorithm": algorithm, "batch_size": 24, "max_steps": 4, "select": "last"}
        | RIVALS[algorithm]
        | settings
    )
    seen = Steps()
    context = RunContext(callback=seen, folder=folder, resume=folder is not None)
    GRPOTrainer(model, args=args, train_dataset=DATASET, context=context).train()
    return seen.logs


@pytest.mark.parametrize(
    ("algorithm", "objective"), [("reinforce", lambda p: p), ("raft", lambda p: p.log())]
)
def test_the_gradient_is_that_of_the_rival_s_own_objective(algorithm, objective):
    few, copies = vectors(2), 60
    rewards = [(0, 1, 1.0), (1, 3, 1.0)]
    p = (few.users @ few.items.T / 0.7).softmax(dim=1)[[0, 1], [1, 3]]
    wanted = torch.autograd.grad(objective(p).mean(), few)
    users = few.users.detach().repeat(copies, 1).requires_grad_()
    work = task([(s + 2 * c, i, v) for c in range(copies) for s, i, v in rewards])
    estimator = rival(algorithm, num_generations=3000)
    rollout = estimator.roll_out(Embeddings(users.detach(), few.items.detach()), work, numbers())
    loss, _ = estimator.loss(Embeddings(users, few.items), work, rollout, None)
    found = torch.autograd.grad(-loss, (users, few.items))
    by_state = found[0].view(copies, 2, DIM).sum(dim=0)
    for ours, theirs in ((by_state, wanted[0]), (found[1], wanted[1])):
        assert functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.98
        assert ours.norm().item() == pytest.approx(theirs.norm().item(), rel=0.06)


def test_reinforce_compares_with_nothing():
    rollout = rival("reinforce").roll_out(vectors(1), task([(0, 1, 0.5)]), numbers())
    assert torch.equal(rollout.advantages, rollout.rewards)


def test_rejection_sampling_learns_nothing_from_a_draw_that_cost_something():
    paid = [torch.tensor([[1.0, -1.0, 0.0, 2.0], [-1.0, -2.0, 0.0, -1.0]])]
    found = rival("raft").advantages(paid, vectors(2))
    assert torch.allclose(found, torch.tensor([[4 / 3, 0, 0, 8 / 3], [0, 0, 0, 0]]))


def test_what_a_value_head_expects_moves_the_head_alone():
    new, work, ppo = leaves(2), task([(0, 1, 1.0), (1, 3, 0.5)]), rival("ppo", num_generations=50)
    torch.nn.init.ones_(ppo.value.weight)
    advantages = ppo.advantages([torch.rand(2, 50, generator=numbers())], new)
    assert torch.autograd.grad(advantages.sum(), new, allow_unused=True) == (None, None)
    with torch.no_grad():
        rollout = ppo.roll_out(new, work, numbers())
    loss, logs = ppo.loss(new, work, rollout, None)
    policy_loss, _ = SampledEstimator.loss(ppo, new, work, rollout, None)
    error = (ppo.value(new.users)[:, 0] - rollout.rewards.mean(dim=1)).square().mean()
    assert logs.means()["value_loss"] == pytest.approx(error.item())
    assert (loss - policy_loss).item() == pytest.approx(error.item(), rel=1e-5)
    moved = (torch.autograd.grad(each, new, retain_graph=True) for each in (loss, policy_loss))
    assert all(torch.equal(a, b) for a, b in zip(*moved, strict=True))
    of_head = (torch.autograd.grad(each, [*ppo.value.parameters()]) for each in (loss, error))
    assert all(torch.allclose(a, b) for a, b in zip(*of_head, strict=True))


def test_what_was_earned_beyond_the_value_is_whitened():
    new, ppo = leaves(2), rival("ppo", num_generations=50)
    torch.nn.init.ones_(ppo.value.weight)
    rewards = torch.rand(2, 50, generator=numbers())
    found = ppo.advantages([rewards], new)
    beyond = rewards - new.users.sum(dim=1, keepdim=True)
    assert torch.allclose(found, (beyond - beyond.mean()) / beyond.std(), atol=1e-5)


def test_a_value_head_learns_what_a_state_is_worth():
    new, work = vectors(2), task([(0, 1, 1.0)], n_states=2)
    ppo = rival("ppo", num_generations=2000)
    optimiser = torch.optim.Adam(ppo.head.parameters(), lr=0.1)
    states = Embeddings(new.users.detach().float(), new.items.detach().float())
    for seed in range(200):
        rollout = ppo.roll_out(states, work, numbers(seed))
        loss, logs = ppo.loss(states, work, rollout, None)
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


@pytest.mark.parametrize("parted", [False, True])
def test_importance_weights_compare_with_the_base_and_fade_for_the_certain(parted):
    new, base, work = vectors(2), vectors(2, seed=5), task([(0, 1, 1.0), (1, 3, 0.5)])
    base = Embeddings(-6 * new.users.detach(), new.items.detach()) if parted else base
    log_p, log_b = ((v.users @ v.items.T / 0.7).log_softmax(dim=1) for v in (new, base))
    pairs = ([0, 1], [1, 3])
    ratio = (log_p[pairs] - log_b[pairs]).detach().exp()
    assert bool((ratio > 20).any()) is parted
    weight = ratio.clamp(max=20) * (1 - log_p[pairs].detach().exp()) ** 3
    wanted = (torch.tensor([1.0, 0.5]) * weight * log_p[pairs]).sum() / 1.5
    estimator = rival("top_k_off_policy", pass_k=4)
    assert estimator.needs_reference
    loss, _ = estimator.loss(new, work, None, base)
    assert loss.item() == pytest.approx(-wanted.item(), rel=1e-6)
    for a, b in zip(torch.autograd.grad(loss, new), torch.autograd.grad(-wanted, new), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_preferences_are_those_of_the_formula(monkeypatch):
    monkeypatch.setattr(torch, "randint", in_turn)
    drawn = in_turn(ITEMS, (2, 64)).tolist()
    new, base, work = vectors(2), vectors(2, seed=5), task([(0, 1, 1.0), (1, 3, 0.5)])
    gap = 0.5 * (
        (new.users @ new.items.T / 0.7).log_softmax(1)
        - (base.users @ base.items.T / 0.7).log_softmax(1).detach()
    )
    terms = []
    for state, item in ((0, 1), (1, 3)):
        others = [other for other in drawn[state] if other != item]
        against = (gap[state, others] - gap[state, item]).exp().sum().log()
        terms.append(-functional.logsigmoid(-against))
    wanted = (terms[0] + 0.5 * terms[1]) / 1.5
    loss, _ = rival("s_dpo").loss(new, work, None, base)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    for a, b in zip(torch.autograd.grad(loss, new), torch.autograd.grad(wanted, new), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_critic_weighs_the_actor_and_looks_one_state_ahead():
    trainer = GRPOTrainer(
        build(), args=GRPOConfig(algorithm="sac", batch_size=500), train_dataset=DATASET
    )
    (work,) = trainer.epoch(torch.Generator())
    after = _next_states(work)
    rows, ends = work.queries.rows, work.queries.ends
    for state, following in enumerate(after.tolist()):
        same = (rows == rows[state]) & (ends == ends[state] + 1)
        assert following == (int(same.nonzero()[0, 0]) if same.any() else -1)
    assert (after >= 0).any()
    assert (after < 0).any()
    sac = rival("sac")
    new, worth = vectors(2), task([(0, 1, 1.0), (1, 3, 1.0)])
    new = Embeddings(*(part.detach().float().requires_grad_() for part in new))
    with torch.no_grad():
        sac.query.weight.zero_()
        own = new.items[3]  # of state 1; a query at right angles to it has a Q of 0
        sac.query.bias.copy_(new.items[1] - new.items[1] @ own / own.square().sum() * own)
    loss, logs = sac.loss(new, worth, None, None)
    users = torch.autograd.grad(loss, new)[0]
    assert users[0].abs().sum() > 0
    assert users[1].abs().max() < 1e-6  # its Q is 0: nothing to learn
    assert logs.means()["q_loss"] > 0


def test_a_critic_moves_its_head_alone():
    new, work, sac = leaves(2), task([(0, 1, 1.0), (1, 3, 0.5)]), rival("sac")
    error, _ = sac._critic(new, work)
    assert torch.autograd.grad(error, new, allow_unused=True, retain_graph=True) == (None, None)
    of_head = torch.autograd.grad(error, [*sac.query.parameters()])
    assert all(slope.abs().sum() > 0 for slope in of_head)


def test_an_actor_weighs_what_is_rewarded_by_its_positive_worth_1_on_average():
    new, work, sac = leaves(3), task([(0, 1, 1.0), (1, 3, 0.5), (2, 2, 1.0)]), rival("sac")
    pairs, values = ([0, 1, 2], [1, 3, 2]), torch.tensor([1.0, 0.5, 1.0])
    with torch.no_grad():
        q = (new.users @ new.items.T)[pairs]  # the head begins as the identity
    assert q.min() < 0 < q.sort().values[1]
    weight = values * q.clamp(min=0)
    log_p = (new.users @ new.items.T / 0.7).log_softmax(dim=1)[pairs]
    wanted = torch.autograd.grad(-(weight * log_p).sum() / weight.sum(), new)
    found = torch.autograd.grad(sac.loss(new, work, None, None)[0], new)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, wanted, strict=True))


def test_a_critic_s_target_is_the_reward_and_half_of_the_best_that_follows(monkeypatch):
    monkeypatch.setattr(torch, "randint", in_turn)
    sac, new, work = rival("sac"), vectors(2), task([(0, 1, 1.0), (1, 3, 0.5)])
    ends = torch.tensor([1, 2])  # state 1 is state 0, one item later
    work = work._replace(queries=replace(work.queries, rows=torch.tensor([0, 0]), ends=ends))
    new = Embeddings(*(part.detach().float() for part in new))
    error, q = sac._critic(new, work)
    scores = new.users @ new.items.T  # the head begins as the identity
    assert torch.allclose(q, scores[[0, 1], [1, 3]])
    best = scores.amax(dim=1)
    targets = torch.stack([1 + 0.5 * best[1], torch.tensor(0.5)])
    drawn = scores.gather(1, in_turn(ITEMS, (2, 10)))
    wanted = (q - targets).square().mean() + (drawn - 0.5 * best[:, None]).square().mean()
    assert error.item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_the_head_is_trained_by_the_trainer(algorithm):
    args = GRPOConfig(
        algorithm=algorithm, batch_size=24, max_steps=3, select="last", **RIVALS[algorithm]
    )
    trainer = GRPOTrainer(build(), args=args, train_dataset=DATASET)
    before = [p.detach().clone() for p in trainer._estimator.head.parameters()]
    trainer.train()
    after = trainer._estimator.head.parameters()
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("algorithm", sorted(RIVALS))
def test_every_rival_makes_a_half_trained_model_better(algorithm):
    model = build()
    pretrain(model, DATASET, PretrainConfig(max_steps=2, batch_size=48, learning_rate=0.002))
    before = evaluate(model, DATASET).means()["ndcg@10"]
    tuned(
        model,
        algorithm,
        reward_funcs=("next",),
        temperature=1.0,
        max_steps=80,
        eval_steps=10,
        batch_size=48,
        learning_rate=0.01,
        select="best",
        patience=0,
    )
    assert evaluate(model, DATASET).means()["ndcg@10"] > before + 0.03


@pytest.mark.parametrize("algorithm", ["ppo", "sac", "s_dpo"])
def test_what_a_rival_trains_beside_the_model_is_resumed(algorithm, tmp_path):
    from recoach.models.checkpoint import load_tensors, save_tensors

    whole, cut = build(), build()
    steps = tuned(whole, algorithm, max_steps=8)
    tuned(cut, algorithm, tmp_path, max_steps=4)
    saved = load_tensors(tmp_path / "last.safetensors")
    save_tensors(tmp_path / "last.safetensors", saved.tensors, saved.state | {"finished": False})
    cut = build()
    again = tuned(cut, algorithm, tmp_path, max_steps=8)
    assert [row["loss"] for row in again] == [row["loss"] for row in steps[4:]]
    for ours, theirs in zip(cut.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algorithm": "ppo"}, "takes estimator 'sampled'"),
        ({"algorithm": "sac", "estimator": "sampled"}, "takes estimator 'exact'"),
        ({"algorithm": "raft", "estimator": "stratified"}, "takes estimator 'sampled'"),
        ({"algorithm": "s_dpo"}, "needs beta > 0"),
        ({"estimator": "slate"}, "'slate' knows loss_type 'grpo' and 'dr_grpo'"),
        ({"scale_rewards": "batch"}, "belongs to the estimators that draw"),
    ],
)
def test_rivals_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        GRPOConfig(**settings)
