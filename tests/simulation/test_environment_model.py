"""The learned model of the users of a shop: what it reads and predicts, and the shop made of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.models.registry import build_model
from recoach.simulation.bandits import oracle
from recoach.simulation.environment import EngagementReward, EnvironmentConfig, ShopVectorEnv
from recoach.simulation.environment_model import (
    EnvironmentModel,
    EnvironmentModelConfig,
    LearnedShopEnv,
    LoggedTurns,
    log_turns,
    myopic_policy,
)
from recoach.simulation.episodes import history_queries, model_policy, run_episodes
from recoach.simulation.shop import UserStates, shop
from recoach.training.context import RunContext
from recoach.training.online.reinforce import OnlineReinforceConfig
from recoach.training.online.trainer import OnlineTrainer

SHOP = shop(40, 60, seed=0, n_categories=3)
DATASET = leave_last_out(SHOP.interactions)
CONFIG = EnvironmentConfig(list_length=3, max_turns=6)
BASE = build_model("sasrec", DATASET, dim=8, seed=1)
ITEMS = DATASET.n_items


def shop_env(**config):
    return ShopVectorEnv(SHOP, DATASET, replace(CONFIG, **config))


def model_of(seed=0, **config):
    return EnvironmentModel(BASE, EnvironmentModelConfig(**config), seed)


def moved(model):
    """Return the model with weights that differ from 0."""
    with torch.no_grad():
        for part in model.parameters():
            if part.requires_grad:
                part.add_(torch.randn(part.shape, generator=torch.Generator().manual_seed(3)) / 5)
    return model


def test_a_turn_pays_for_clicks_depth_and_returns():
    reward = EngagementReward(click=2.0, turn=0.1, visit=3.0)
    env = ShopVectorEnv(SHOP, DATASET, CONFIG, reward=reward)
    observations, _ = env.reset(seed=0)
    returns = 0
    for _ in range(6):
        is_active = ~env.terminated
        observations, rewards, *_, info = env.step(model_policy(BASE)(observations, env))
        expected = 2.0 * (info["clicked"] >= 0) + 3.0 * info["returned"] + 0.1 * is_active
        assert rewards == pytest.approx(expected)
        returns += info["returned"].sum()
    assert returns > 0
    assert not is_active.all()


def test_features_are_state_recent_items_and_session():
    model = model_of()
    pad = ITEMS
    observations = np.array([[4, 7, 2, pad, pad], [9, pad, pad, pad, pad]])
    sessions = np.array([[2.0, 5.0], [0.0, 0.0]])
    features = model.features(observations, np.array([0, 1]), sessions)
    vectors = model.item_vectors
    assert torch.allclose(vectors, BASE.eval().embed(queries(observations)).items)
    assert torch.allclose(features[:, :8], BASE.embed(queries(observations)).users, atol=1e-6)
    expected = vectors[2] + 0.8 * vectors[7] + 0.64 * vectors[4]
    assert torch.allclose(features[:, 8:16], torch.stack([expected, vectors[9]]), atol=1e-6)
    session = torch.tensor([[np.log(3.0), np.log(6.0), 0.4], [0.0, 0.0, 0.0]])
    assert torch.allclose(features[:, 16:], session.float())


def queries(observations):
    return history_queries(BASE, observations, np.zeros(len(observations), dtype=np.int64), None)


def test_logged_turns_are_those_of_the_episodes():
    model, policy = model_of(), model_policy(BASE)
    turns = log_turns(shop_env(), policy, model, seed=5)
    result = run_episodes(shop_env(), policy, 5)
    clicks = turns.choices < 3
    assert len(turns.choices) == result.turns.sum()
    assert clicks.sum() == result.reward.sum() > 0
    assert turns.returned.sum() == result.sessions.sum() - 40 > 0
    assert turns.returned[~turns.left].sum() == 0
    assert turns.returned.sum() / turns.left.sum() == pytest.approx(result.return_rate)

    env = shop_env()
    observations, _ = env.reset(seed=5)
    lists = policy(observations, env)
    observations, _, _, _, info = env.step(lists)
    assert (turns.lists[:40].numpy() == lists).all()
    shown = np.column_stack([lists, np.full(40, -1)])
    assert (shown[np.arange(40), turns.choices[:40]] == info["clicked"]).all()
    assert torch.equal(turns.left[:40], torch.from_numpy(info["left"]))
    sessions = np.column_stack([info["clicked"] >= 0, np.ones(40)])
    assert torch.equal(turns.after[:40], model.features(observations, env.users, sessions))


def test_at_first_the_scores_of_the_recommender_are_the_logits():
    model, observations = model_of(), np.array([[4, 7, 2]])
    items, no_click = model.click_logits(model.features(observations, np.zeros(1, int), NO_CLICKS))
    assert torch.allclose(items, BASE.eval().score(queries(observations)), atol=1e-5)
    assert no_click.tolist() == [0.0]


NO_CLICKS = np.zeros((1, 2))


def synthetic(n=3000):
    """Return turns in which two items and two rates are known; features are noise."""
    rng = np.random.default_rng(0)
    model = model_of()
    features = torch.randn(n, model.mean.shape[0], generator=torch.Generator().manual_seed(0))
    lists = np.stack([rng.permutation(3) for _ in range(n)])
    lists[:, 2] = np.where(rng.random(n) < 0.3, -1, lists[:, 2])
    rates = np.array([0.6, 0.2, 0.1])
    rates = np.where(lists < 0, 0.0, rates[lists])
    shares = np.column_stack([rates, np.full(n, 0.3)])
    shares /= shares.sum(axis=1, keepdims=True)
    choices = (shares.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    left = rng.random(n) < np.where(choices < 3, 0.1, 0.7)
    returned = left & (rng.random(n) < 0.25)
    outcomes = (lists, choices, left, returned)
    return LoggedTurns(features, features, *(torch.from_numpy(part) for part in outcomes))


def test_the_heads_learn_what_users_do():
    turns, model = synthetic(), model_of(epochs=5, learning_rate=1e-2)
    turns = turns._replace(before=turns.before + 3, after=turns.after + 3)
    model.fit(turns)
    assert torch.allclose(model.mean, turns.before.mean(dim=0))
    nobody = model.mean[None]
    with torch.no_grad():
        items, no_click = model.click_logits(nobody)
        odds = (items[0, :3] - no_click).exp()
        leave = [model.leave_logits(nobody, torch.tensor([c])).sigmoid().item() for c in (0, 1)]
        returning = model.return_logits(nobody).sigmoid().item()
    assert odds.tolist() == pytest.approx([2.0, 2 / 3, 1 / 3], rel=0.25)
    assert leave == pytest.approx([0.7, 0.1], abs=0.06)
    assert returning == pytest.approx(0.25, abs=0.06)


def test_the_losses_are_mean_negative_log_likelihoods():
    turns, model = synthetic(50), moved(model_of())
    items, no_click = model.click_logits(turns.before)
    leave = model.leave_logits(turns.after, turns.choices < 3).sigmoid()
    back = model.return_logits(turns.after).sigmoid()
    response, leaving, returning = [], [], []
    for row in range(50):
        logits = {i: items[row, i] for i in turns.lists[row].tolist() if i >= 0}
        total = torch.stack([*logits.values(), no_click[row]]).logsumexp(0)
        choice = turns.choices[row].item()
        chosen = no_click[row] if choice == 3 else logits[turns.lists[row, choice].item()]
        response.append(total - chosen)
        left = turns.left[row]
        leaving.append(-(leave[row] if left else 1 - leave[row]).log())
        if left:
            returning.append(-(back[row] if turns.returned[row] else 1 - back[row]).log())
    expected = [torch.stack(part).mean().item() for part in (response, leaving, returning)]
    found = [loss.item() for loss in model.losses(turns).values()]
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_same_seed_gives_the_same_model_and_the_recommender_is_not_trained():
    state = torch.random.get_rng_state()
    before = {name: part.clone() for name, part in BASE.state_dict().items()}
    fitted = []
    for seed in (1, 1, 2):
        model = model_of(seed, epochs=1)
        model.fit(synthetic(300))
        fitted.append(torch.cat([part.flatten() for part in model.parameters()]))
        frozen = model.recommender.state_dict()
        assert all(torch.equal(part, before[name]) for name, part in frozen.items())
    assert torch.equal(fitted[0], fitted[1])
    assert not torch.equal(fitted[0], fitted[2])
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_learned_shop_knows_nothing_of_how_users_are():
    model = moved(model_of())
    hidden = SHOP.user_states()
    others = UserStates(-3 * hidden.vectors, hidden.last_item, hidden.seen)
    other_shop = replace(SHOP, _user_states=others)
    strange = replace(CONFIG, no_click_logit=-9.0, satiation=5.0, leave_after_click=1.0)
    strange = replace(strange, min_return_probability=0.0, leave_after_no_click=1.0)
    results = []
    for one_shop, config in ((SHOP, CONFIG), (other_shop, strange)):
        env = LearnedShopEnv(model, one_shop, DATASET, config)
        results.append(run_episodes(env, myopic_policy(model), 3))
        assert isinstance(env, ShopVectorEnv)
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one, other)
    assert results[0].reward.sum() > 0
    assert results[0].sessions.max() > 1


def test_a_learned_shop_responds_with_the_predicted_probabilities():
    model = moved(model_of())
    env = LearnedShopEnv(model, SHOP, DATASET, CONFIG)
    observations, _ = env.reset(seed=0)
    for _ in range(2):
        observations, *_ = env.step(myopic_policy(model)(observations, env))
    rows, has_click = env.active_rows[:5], np.array([True, False, True, False, True])
    features = model.features(observations[rows], env.users[rows], env.sessions[rows])
    with torch.no_grad():
        items, no_click = model.click_logits(features)
        leave = model.leave_logits(features, torch.from_numpy(has_click)).sigmoid()
        back = model.return_logits(features).sigmoid()
    predicted = env.click_logits(rows)
    assert np.allclose(predicted[0], items, atol=1e-6)
    assert np.allclose(predicted[1], no_click, atol=1e-6)
    assert np.allclose(env.leave_probabilities(rows, has_click), leave, atol=1e-6)
    assert np.allclose(env.return_probabilities(rows), back, atol=1e-6)
    assert np.array_equal(oracle(observations, env), myopic_policy(model)(observations, env))


def test_a_policy_is_trained_in_the_learned_shop():
    model = moved(model_of())
    env, other = (LearnedShopEnv(model, SHOP, DATASET, CONFIG, np.arange(n)) for n in (20, 10))
    policy = build_model("bprmf", DATASET, dim=4)
    before = [part.clone() for part in policy.parameters()]
    args = OnlineReinforceConfig(max_steps=2, eval_steps=1, select="last", learning_rate=0.01)
    trainer = OnlineTrainer(policy, env, args, eval_env=other, context=RunContext(progress=False))
    trainer.train()
    assert trainer.interactions > 40
    assert any(not torch.equal(*pair) for pair in zip(before, policy.parameters(), strict=True))


def test_a_recommender_without_vectors_is_refused():
    with pytest.raises(ConfigError, match="A model of an environment needs"):
        EnvironmentModel(build_model("itemknn", DATASET))
