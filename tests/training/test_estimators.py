import numpy as np
import pytest
import torch
from estimating import (
    DIM,
    ITEMS,
    exact,
    loss_of,
    make_batch,
    numbers,
    roll_out,
    sampled,
    step,
    vectors,
)
from torch.nn import functional

from recoach.data.dataset import RaggedArray
from recoach.data.queries import Seen
from recoach.models import softmax
from recoach.models.base import Embeddings
from recoach.policy.candidates import Proposal, restrict_to_candidates
from recoach.policy.objective import objective
from recoach.training.algorithms.base import RLBatch, Statistics
from recoach.training.contract import read_logs

LOSS_TYPES = ["grpo", "dr_grpo", "log", "pass_at_k", "power"]


def finite_differences(value, new, width=1e-6):
    """Return the gradient of a function of vectors, a coordinate at a time in float64."""
    gradients = []
    for tensor in new:
        flat = tensor.detach().view(-1)
        slopes = torch.zeros_like(flat)
        for place in range(len(flat)):
            centre = flat[place].item()
            ends = []
            for shift in (width, -width):
                flat[place] = centre + shift
                ends.append(value().item())
            flat[place] = centre
            slopes[place] = (ends[0] - ends[1]) / (2 * width)
        gradients.append(slopes.view_as(tensor))
    return gradients


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("needs_rollout", [False, True])
def test_the_exact_gradient_is_that_of_the_mean_objective(loss_type, needs_rollout):
    new = vectors(4)
    rewards = [(0, 1, 1.0), (1, 4, 1.0), (1, 5, 0.5), (3, 0, 1.0)]
    hidden = Seen(torch.tensor([0, 1, 3]), torch.tensor([3, 0, 2]))

    def mean_objective():
        logits = (new.users @ new.items.T).detach() / 0.7
        logits[hidden[:2]] = -torch.inf
        log_p = logits.log_softmax(dim=1)
        return sum(v * objective(log_p[s, i], loss_type, 5) for s, i, v in rewards) / 4

    wanted = finite_differences(mean_objective, new)
    estimator = exact(loss_type=loss_type, pass_k=5, num_iterations=1 + needs_rollout)
    _, found, _ = step(estimator, new, make_batch(rewards, seen=hidden))
    assert all(torch.allclose(-g, w, atol=2e-6) for g, w in zip(found, wanted, strict=True))
    assert found[0][2].tolist() == [0, 0, 0]


@pytest.mark.parametrize("power", [0.1, 0.9])
def test_the_power_is_the_one_that_was_set(power):
    new = vectors(1)
    log_p = (new.users @ new.items.T / 0.7).log_softmax(dim=1)[0, 1]
    wanted = torch.autograd.grad(-(power * log_p).exp() / power, new)
    _, found, logs = step(exact(loss_type="power", power=power), new, make_batch([(0, 1, 1.0)]))
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(found, wanted, strict=True))
    assert logs["objective"] == pytest.approx(((power * log_p).exp() / power).item())


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("needs_rollout", [False, True])
def test_normalised_weights_average_one(loss_type, needs_rollout):
    new, batch = vectors(3), make_batch([(0, 1, 1.0), (1, 4, 0.5), (2, 0, 1.0)])
    settings = {"loss_type": loss_type, "num_iterations": 1 + needs_rollout}
    _, plain, logs = step(exact(**settings), new, batch)
    _, scaled, _ = step(exact(**settings, normalize_weights=True), new, batch)
    log_p = (new.users @ new.items.T / 0.7).detach().log_softmax(1)
    p = log_p[[0, 1, 2], [1, 4, 0]].exp()
    by_type = {"grpo": (p / (1 - p)).sqrt(), "dr_grpo": p, "log": p**0, "power": p**0.5}
    weight = by_type.get(loss_type, 10 * p * (1 - p) ** 9)
    total = (weight * torch.tensor([1.0, 0.5, 1.0])).sum()
    assert torch.allclose(scaled[0], plain[0] * 3 / total, atol=1e-6)
    assert logs["policy/p_mean"] == pytest.approx(p.mean().item(), rel=1e-5)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("second_reward", [0.5, -0.5])
def test_a_kl_needs_no_rollout_where_the_old_policy_is_the_new_one(
    loss_type, second_reward, monkeypatch
):
    if loss_type == "grpo" and second_reward < 0:
        pytest.skip("rewards of grpo are whitened, and here none is negative")
    new, reference = vectors(3), vectors(3, seed=1)
    batch = make_batch([(0, 1, 1.0), (1, 4, second_reward), (2, 0, 1.0)])
    settings = {"loss_type": loss_type, "beta": 0.5, "normalize_weights": True}
    assert not exact(**settings).needs_rollout
    _, rolled_out, _ = step(exact(**settings), new, batch, old=new, reference=reference)
    for states_of_a_block in (3, 1):
        monkeypatch.setattr(softmax, "_LEAST_STATES", 1)
        monkeypatch.setitem(softmax._STATES, "cpu", states_of_a_block)
        _, without, _ = step(exact(**settings), new, batch, reference=reference)
        assert all(
            torch.allclose(*pair, atol=1e-9) for pair in zip(without, rolled_out, strict=True)
        )


def test_more_states_than_a_block_give_the_same_gradient_as_their_parts():
    rewards = [(state, state % ITEMS, 1.0) for state in range(600)]
    new, estimator = vectors(600), exact()
    _, whole, _ = step(estimator, new, make_batch(rewards))
    total = torch.zeros(ITEMS, DIM, dtype=torch.float64)
    for start in range(0, 600, 200):
        part = Embeddings(new.users[start : start + 200], new.items)
        rows = [(s - start, i, v) for s, i, v in rewards[start : start + 200]]
        total += step(estimator, part, make_batch(rows))[1][1] / 3
    assert torch.allclose(whole[1], total, atol=1e-7)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo"])
def test_the_mean_of_sampled_gradients_converges_to_the_exact_one(loss_type):
    few, copies = vectors(3), 100
    rewards = [(0, 1), (1, 4), (2, 0)]
    kind = {"loss_type": loss_type}
    _, wanted, _ = step(exact(**kind), few, make_batch([(*pair, 1.0) for pair in rewards]))
    users = few.users.detach().repeat(copies, 1).requires_grad_()
    batch = make_batch([(s + 3 * copy, item, 1.0) for copy in range(copies) for s, item in rewards])
    _, found, _ = step(sampled(**kind), Embeddings(users, few.items), batch)
    by_state = found[0].view(copies, 3, DIM).sum(dim=0)
    for ours, theirs in ((by_state, wanted[0]), (found[1], wanted[1])):
        cosine = torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0)
        assert cosine >= 0.99
        assert ours.norm().item() == pytest.approx(theirs.norm().item(), rel=0.05)


def test_sampled_groups_never_hold_a_masked_item():
    hidden = Seen(torch.tensor([0, 0, 1]), torch.tensor([1, 2, 5]))
    rollout = roll_out(
        sampled(num_generations=500),
        vectors(2),
        make_batch([(0, 0, 1.0), (1, 3, 0.5)], seen=hidden),
    )
    assert not {1, 2} & set(rollout.items[0].tolist())
    assert 5 not in rollout.items[1].tolist()
    assert len(set(rollout.items[1].tolist())) > 3
    assert torch.equal(rollout.rewards[0], (rollout.items[0] == 0).float())
    assert torch.equal(rollout.rewards[1], (rollout.items[1] == 3).float() * 0.5)


def test_draws_come_from_the_generator_alone():
    batch, estimator = make_batch([(0, 1, 1.0)]), sampled(num_generations=20)
    first, again, other = (roll_out(estimator, vectors(1), batch, numbers(s)) for s in (1, 1, 2))
    assert torch.equal(first.items, again.items)
    assert not torch.equal(first.items, other.items)


def test_a_group_without_a_hit_moves_nothing():
    estimator, new = sampled(num_generations=64, mask_seen=False), vectors(1)
    batch = make_batch([(0, 1, 1.0)], seen=Seen(torch.tensor([0]), torch.tensor([1])))
    _, gradients, logs = step(estimator, new, batch)
    assert all((gradient == 0).all() for gradient in gradients)
    assert logs["frac_reward_zero_std"] == 1
    assert logs["reward"] == 0


@pytest.mark.parametrize("make", [exact, sampled])
def test_the_literal_kl_is_logged_and_moves_nothing(make):
    batch, reference = make_batch([(0, 1, 1.0), (1, 2, 1.0)]), vectors(2, seed=9)
    log_p, log_q = (
        (v.users @ v.items.T / 0.7).detach().log_softmax(1) for v in (vectors(2), reference)
    )
    expected = (log_p.exp() * (log_p - log_q)).sum(dim=1).mean().item()
    _, without, _ = step(make(), vectors(2), batch)
    _, found, logs = step(
        make(beta=5.0, kl_estimator="literal"), vectors(2), batch, reference=reference
    )
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(found, without, strict=True))
    assert logs["kl"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("make", [exact, sampled])
def test_the_exact_kl_adds_its_own_gradient(make):
    new, reference, batch = vectors(2), vectors(2, seed=9), make_batch([(0, 1, 1.0), (1, 2, 1.0)])
    log_p, log_q = ((v.users @ v.items.T / 0.7).log_softmax(1) for v in (new, reference))
    kl = (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()
    wanted = torch.autograd.grad(3 * kl, new)
    loss, without, _ = step(make(), new, batch)
    pulled, found, _ = step(make(beta=3.0, kl_estimator="exact"), new, batch, reference=reference)
    assert pulled == pytest.approx(loss + 3 * kl.item(), rel=1e-5)
    for a, b, c in zip(found, without, wanted, strict=True):
        assert torch.allclose(a - b, c, atol=1e-5)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_a_sampled_kl_is_near_the_exact_one(kind):
    new, batch = vectors(1), make_batch([(0, 1, 1.0)])
    near = Embeddings(new.users.detach() * 1.1, new.items.detach())
    values = []
    for kl_estimator in (kind, "exact"):
        estimator = sampled(beta=1.0, kl_estimator=kl_estimator, num_generations=200_000)
        values.append(step(estimator, new, batch, reference=near)[2]["kl"])
    assert values[0] == pytest.approx(values[1], rel=0.15)


@pytest.mark.parametrize("make", [exact, sampled])
def test_a_ratio_that_has_run_too_far_is_clipped_and_counted(make):
    old, batch = vectors(1), make_batch([(0, 1, 1.0)])
    pushed = Embeddings(old.users.detach(), old.items.detach().clone())
    pushed.items[1] += 0.5 * old.users.detach()[0]
    pushed = Embeddings(pushed.users.requires_grad_(), pushed.items.requires_grad_())
    settings = {"num_iterations": 2, "epsilon": 0.01}
    _, gradients, logs = step(make(**settings), pushed, batch, old=old)
    assert all((gradient == 0).all() for gradient in gradients)
    assert logs["clip_ratio/high_mean"] > 0
    assert logs["clip_ratio/low_mean"] > 0
    _, free, _ = step(
        make(**settings | {"epsilon": 0.999, "epsilon_high": 99}), pushed, batch, old=old
    )
    assert free[0].abs().sum() > 0


def test_what_is_logged_by_hand():
    new = Embeddings(torch.zeros(2, DIM).requires_grad_(), torch.zeros(ITEMS, DIM).requires_grad_())
    _, _, logs = step(
        exact(loss_type="dr_grpo"), new, make_batch([(0, 1, 1.0), (0, 2, 0.5)], n_states=2)
    )
    second = (1 + 0.25) / 6
    assert logs["reward"] == pytest.approx((1.5 / 6) / 2)
    assert logs["reward_std"] == pytest.approx((second - (1.5 / 6) ** 2) ** 0.5 / 2, rel=1e-5)
    assert logs["frac_reward_zero_std"] == 0.5
    assert logs["policy/p_mean"] == logs["objective"] == pytest.approx(1 / 6)
    assert logs["entropy"] == pytest.approx(torch.tensor(6.0).log().item())


def test_statistics_average_elements_not_calls():
    statistics = Statistics()
    statistics.add("x", torch.tensor([1.0, 2.0, 3.0]))
    statistics.add("x", torch.tensor(6.0))
    statistics.add("y", torch.empty(0))
    assert read_logs(statistics.means()) == {"x": 3.0, "y": 0.0}


def test_the_sampled_estimator_needs_its_rollout():
    with pytest.raises(ValueError, match="rollout"):
        loss_of(sampled(), vectors(1), make_batch([(0, 1, 1.0)]))


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_the_stratified_gradient_nears_the_exact_one_as_draws_grow(beta):
    new, n_items = vectors(40), 60
    items = torch.randn(n_items, DIM, generator=numbers(3), dtype=torch.float64).requires_grad_()
    whole = Embeddings(new.users, items)
    there = Embeddings(new.users.detach(), items.detach().roll(1, dims=0))
    batch = make_batch([(state, state % 5, 1.0) for state in range(40)])
    estimator = exact(beta=beta)
    _, wanted, _ = step(estimator, whole, batch, reference=there if beta else None)
    train = RaggedArray(np.array([0, 2]), np.array([3, 4], dtype=np.int32))
    cosines = []
    for count in (10, 100_000):
        drawn = Proposal(train, n_items).candidates(batch.rewards.items, count, numbers(7))
        part = RLBatch(*restrict_to_candidates(batch.queries, batch.rewards, drawn), drawn)
        few, far = (Embeddings(x.users, x.items[drawn.items]) for x in (whole, there))
        with torch.no_grad():
            rollout = roll_out(estimator, few, part) if estimator.needs_rollout else None
        loss, _ = loss_of(estimator, few, part, rollout, far if beta else None)
        found = torch.autograd.grad(loss, whole)
        cosines.append(
            [
                functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()
                for a, b in zip(found, wanted, strict=True)
            ]
        )
    assert min(cosines[1]) > 0.999
    assert max(cosines[0]) < 0.999


@pytest.mark.parametrize("how", ["zero", "resample", "force_positive"])
def test_what_becomes_of_dead_groups(how):
    # Items 4 and 5 are rewarded and seldom drawn; state 1 has no reward at all.
    users, items = torch.ones(3, 1), torch.tensor([[1.0], [1.0], [1.0], [1.0], [0.0], [0.0]])
    batch = make_batch([(0, 5, 1.0), (2, 4, 0.25), (2, 5, 0.5)], n_states=3)
    estimator = sampled(num_generations=4, temperature=1.0, dead_groups=how)
    dead, both, best = torch.zeros(3), 0, 0
    for seed in range(400):
        rollout = roll_out(estimator, Embeddings(users, items), batch, numbers(seed))
        assert torch.equal(rollout.items, rollout.items.sort(dim=1).values)
        earned = torch.where(rollout.items == 5, torch.tensor([[1.0], [0.0], [0.5]]), 0.0)
        earned += torch.where(rollout.items == 4, torch.tensor([[0.0], [0.0], [0.25]]), 0.0)
        assert torch.equal(rollout.rewards, earned)
        dead += rollout.rewards.amax(dim=1) == rollout.rewards.amin(dim=1)
        both += len({4, 5} & set(rollout.items[2].tolist())) == 2
        best += 5 in rollout.items[2]
    assert dead[1] == 400
    chance = (1 - 1 / (2 + 4 * np.e)) ** 4
    expected = {"zero": chance, "resample": chance**4, "force_positive": 0.0}[how]
    assert float(dead[0]) / 400 == pytest.approx(expected, abs=0.06)
    assert both < 100  # one rewarded item is put in, not all of them
    assert (best > 260) is (how == "force_positive")  # the one that pays most


def test_without_replacement_all_items_of_a_group_differ():
    estimator = sampled(num_generations=5, replacement=False)
    rollout = roll_out(estimator, vectors(3), make_batch([(0, 1, 1.0), (2, 5, 1.0)], 3))
    assert all(len(set(row)) == 5 for row in rollout.items.tolist())
