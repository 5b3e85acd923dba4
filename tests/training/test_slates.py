"""Plackett-Luce lists: their probabilities, what their ranks return, and the gradient."""

import itertools

import pytest
import torch
from estimating import DIM, ITEMS, loss_of, make_batch, roll_out, vectors
from torch.nn import functional

from recoach.data.queries import Seen
from recoach.data.split import leave_last_out
from recoach.evaluation.evaluator import evaluate
from recoach.experiments.trainer import GRPOTrainer
from recoach.models.base import Embeddings
from recoach.models.registry import build_model
from recoach.policy.list_rewards import marginal_gains
from recoach.policy.policy import Policy
from recoach.policy.reward_funcs import future, item_reward
from recoach.policy.rewards import CombinedReward, LoggedItems
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.grpo.slate import SlateEstimator, plackett_luce
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from toy_logs import cycle

LENGTH = 2
LISTS = torch.tensor(list(itertools.permutations(range(ITEMS), LENGTH)))
DISCOUNT = 1 / torch.arange(2, LENGTH + 2).double().log2()


def slates(*functions, **changes):
    settings = {"estimator": "slate", "loss_type": "grpo", "slate_length": LENGTH}
    args = GRPOConfig(**settings | {"num_generations": 3000, "temperature": 0.7} | changes)
    return SlateEstimator(args, CombinedReward(functions or [future()], n_items=ITEMS))


def law(new):
    """Return the log-probability of each list's places, float[B, lists, L], by the formula."""
    log_p = (new.users @ new.items.T / 0.7).log_softmax(dim=1)
    p = log_p.exp()
    first, second = LISTS.T
    later = log_p[:, second] - (1 - p[:, first]).log()
    return torch.stack([log_p[:, first], later], dim=2)


def test_the_places_of_all_lists_have_the_formula_s_probabilities():
    new = vectors(2)
    (block,) = Policy(0.7).of_vectors(new).blocks()
    found = plackett_luce(block, LISTS.expand(2, -1, -1))
    assert torch.allclose(found, law(new).detach(), atol=1e-6)
    assert found.sum(dim=2).exp().sum(dim=1).tolist() == pytest.approx([1, 1], abs=1e-6)


def test_a_rank_returns_what_it_and_those_below_earn():
    batch = make_batch([(0, 1, 1.0), (0, 4, 0.5)])
    estimator = slates(num_generations=400)
    found = estimator._returns(batch, torch.tensor([[[4, 1], [1, 0], [0, 2], [3, 4]]]))
    low = 1 / torch.tensor(3.0).log2().item()
    wanted = [[0.5 + low, low], [1.0, 0.0], [0.0, 0.0], [0.5 * low, 0.5 * low]]
    assert torch.allclose(found[0][0], torch.tensor(wanted))


def test_advantages_compare_the_lists_of_a_state_rank_by_rank():
    rollout = roll_out(
        slates(num_generations=50),
        vectors(3),
        make_batch([(0, 1, 1.0), (2, 2, 1.0)], n_states=3),
    )
    assert rollout.items.shape == rollout.advantages.shape == (3, 50, LENGTH)
    assert (rollout.items[:, :, 0] != rollout.items[:, :, 1]).all()
    assert torch.allclose(rollout.advantages.mean(dim=1), torch.zeros(3, LENGTH), atol=1e-5)
    assert (rollout.advantages[1] == 0).all()
    hits = rollout.items[0, :, 1] == 1  # at the last rank nothing comes after
    best = rollout.advantages[0, :, 1]
    assert best[hits].min() > best[~hits].max()


def gradients(estimator, few, rewards, copies):
    """Return the estimated gradients of 2 states of the expected reward, from `copies` of each."""
    users = few.users.detach().repeat(copies, 1).requires_grad_()
    batch = make_batch([(s + 2 * c, i, v) for c in range(copies) for s, i, v in rewards])
    logged = batch.rewards
    ones = torch.ones(len(logged.items))
    batch = batch._replace(
        logged=LoggedItems(logged.states, logged.items, ones.long(), {"rating": ones})
    )
    new = Embeddings(users, few.items)
    rollout = roll_out(estimator, Embeddings(users.detach(), few.items.detach()), batch)
    loss, _ = loss_of(estimator, new, batch, rollout)
    of_users, of_items = torch.autograd.grad(-loss * LENGTH, new)  # the loss averages over ranks
    return of_users.view(copies, 2, DIM), of_items


def check(found, few, worth):
    """Compare with the gradient of the expectation over all lists; `worth` is float[2, lists]."""
    expected = (law(few).sum(dim=2).exp() * worth).sum(dim=1).mean()
    wanted = torch.autograd.grad(expected, few)
    for ours, theirs in ((found[0].sum(dim=0), wanted[0]), (found[1], wanted[1])):
        assert functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.99
        assert ours.norm().item() == pytest.approx(theirs.norm().item(), rel=0.05)


def test_the_gradient_is_that_of_the_expected_discounted_gain():
    few, rewards = vectors(2), [(0, 1, 1.0), (0, 4, 0.5), (1, 3, 1.0)]
    gains = torch.zeros(2, ITEMS, dtype=torch.float64)
    for state, item, value in rewards:
        gains[state, item] = value
    found = gradients(slates(scale_rewards="none"), few, rewards, 60)
    check(found, few, (gains[:, LISTS] * DISCOUNT).sum(dim=2))


def test_gains_of_ranks_have_the_gradient_of_the_list_s_reward_and_less_variance():
    few, items = vectors(2), torch.arange(ITEMS).double()

    @marginal_gains
    def gains(prompts, completions, **_):
        first, second = items[completions].T
        return torch.stack([first.square(), first * second], dim=1).float()

    def whole(prompts, completions, **_):
        return gains(prompts, completions).sum(dim=1)

    first, second = items[LISTS].T
    worth = (first.square() + first * second).expand(2, -1)
    rewards, spread = [(0, 1, 1e-9), (1, 1, 1e-9)], {}
    for function in (gains, whole):
        estimator = slates(future(), function, scale_rewards="none")
        check(gradients(estimator, few, rewards, 60), few, worth)
        small = slates(future(), function, scale_rewards="none", num_generations=4)
        by_state = gradients(small, few, rewards, 3000)[0] * 3000
        spread[function] = by_state.var(dim=0).sum()
    assert spread[gains] < 0.9 * spread[whole]


def test_what_a_list_earns_as_a_whole_belongs_to_all_its_ranks():
    asked = {}

    def odd(prompts, completions, ahead, **_):
        asked.update(prompts=prompts, completions=completions, ahead=ahead)
        return (completions % 2).float().mean(dim=1)

    @item_reward
    def price(prompts, completions, **_):
        return completions.float()

    batch = make_batch([(0, 1, 1.0), (1, 2, 1.0)])
    logged = batch.rewards
    batch = batch._replace(
        logged=LoggedItems(
            logged.states, logged.items, torch.tensor([1, 3]), {"rating": torch.tensor([5.0, 2.0])}
        )
    )
    lists = torch.tensor([[[4, 1], [2, 3]], [[5, 3], [1, 2]]])
    parts = slates(future(), price, odd)._returns(batch, lists)
    assert len(parts) == 3
    assert parts[2].tolist() == [[[0.5, 0.5], [0.5, 0.5]], [[1.0, 1.0], [0.5, 0.5]]]
    low = 1 / torch.tensor(3.0).log2()
    assert torch.allclose(parts[1][0, 0], torch.stack([4 + low, low]))
    assert asked["prompts"].tolist() == [0, 0, 1, 1]
    assert asked["completions"].tolist() == lists.flatten(0, 1).tolist()
    assert asked["ahead"].tolist() == [[0, 1], [0, 0], [0, 0], [0, 3]]


def test_what_a_function_pays_each_place_is_discounted_and_returned_from_its_rank_on():
    def pay(prompts, completions, **_):
        return 1.0 + completions

    @item_reward
    def price(prompts, completions, **_):
        return 1.0 + completions

    batch = make_batch([(0, 1, 1.0), (1, 2, 1.0)])
    worth = batch.rewards
    logged = LoggedItems(worth.states, worth.items, torch.ones(2).long(), {"rating": torch.ones(2)})
    batch = batch._replace(logged=logged)
    lists = torch.tensor([[[4, 1], [2, 3]], [[5, 3], [0, 2]]])
    of_items_alone, asked = slates(price, pay)._returns(batch, lists)[1:]
    low = (1.0 + lists[:, :, 1]) / torch.tensor(3.0).log2()
    wanted = torch.stack([1.0 + lists[:, :, 0] + low, low], dim=2)
    assert torch.allclose(asked, wanted)
    assert torch.equal(asked, of_items_alone)


def test_lists_never_hold_what_is_masked():
    hidden = Seen(torch.tensor([0, 0]), torch.tensor([1, 2]))
    rollout = roll_out(
        slates(num_generations=200), vectors(1), make_batch([(0, 0, 1.0)], seen=hidden)
    )
    assert set(rollout.items.flatten().tolist()) == {0, 3, 4, 5}


def test_lists_make_a_half_trained_model_better():
    dataset = leave_last_out(cycle(24, 12, length=7))
    model = build_model("sasrec", dataset, dim=8, layers=1, heads=2, inner_dim=16, max_length=6)
    pretrain(model, dataset, PretrainConfig(max_steps=2, batch_size=48, learning_rate=0.002))
    before = evaluate(model, dataset).means()["ndcg@10"]
    args = GRPOConfig(
        estimator="slate",
        loss_type="grpo",
        num_generations=64,
        slate_length=4,
        max_steps=60,
        eval_steps=10,
        batch_size=48,
        temperature=1.0,
        learning_rate=0.01,
    )
    GRPOTrainer(model, "next", args, train_dataset=dataset).train()
    assert evaluate(model, dataset).means()["ndcg@10"] > before + 0.05
