from dataclasses import replace

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from pydantic import ValidationError

from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.models.registry import build_model
from recoach.simulation.environment import EnvironmentConfig, ShopEnv, ShopVectorEnv
from recoach.simulation.episodes import model_policy, run_episodes
from recoach.simulation.shop import shop

SHOP = shop(60, 80, seed=0, n_categories=4)
DATASET = leave_last_out(SHOP.interactions)
ALWAYS_CLICK = EnvironmentConfig(list_length=4, no_click_logit=-50.0, leave_after_click=0.0)
"""Every user clicks in every turn and stays."""


def make_env(**config):
    return ShopVectorEnv(SHOP, DATASET, replace(ALWAYS_CLICK, **config))


def best(observations, env):
    """Show the items of highest true click probability."""
    del observations
    probabilities = SHOP.click_probabilities(env._states)
    return np.argsort(-probabilities, axis=1)[:, : env.config.list_length]


def random_lists(observations, env):
    rng = np.random.default_rng(int((observations != env.n_items).sum()))
    return rng.permuted(np.tile(np.arange(80), (60, 1)), axis=1)[:, : env.config.list_length]


def test_shop_env_passes_gymnasiums_checks():
    check_env(ShopEnv(SHOP, DATASET), skip_render_check=True)


def test_the_seed_determines_the_user():
    env = ShopEnv(SHOP, DATASET, ALWAYS_CLICK)
    windows, _ = make_env().reset(seed=0)
    users = []
    for seed in (*range(12), *range(12)):
        observations, info = env.reset(seed=seed)
        assert np.array_equal(observations, windows[info["user"]])
        users.append(int(info["user"]))
    assert users[:12] == users[12:]
    assert len(set(users)) > 6
    assert len({int(env.reset()[1]["user"]) for _ in range(12)}) > 6


def test_observations_and_actions_are_in_their_spaces():
    env = make_env()
    observations, info = env.reset(seed=0)
    assert observations in env.observation_space
    assert env.action_space.sample() in env.action_space
    assert info["user"].tolist() == list(range(60))
    observations, rewards, terminated, truncated, info = env.step(best(observations, env))
    assert observations in env.observation_space
    assert rewards.tolist() == [1.0] * 60
    assert not terminated.any()
    assert not truncated.any()


def test_observations_start_with_the_log_and_append_clicks():
    env = make_env(history_length=6)
    observations, _ = env.reset(seed=0)
    for user in (0, 7):
        rows = (DATASET.train.row(user), DATASET.valid.row(user), DATASET.test.row(user))
        assert observations[user].tolist() == np.concatenate(rows)[-6:].tolist()
    after, _, _, _, info = env.step(best(observations, env))
    assert np.array_equal(after[:, :-1], observations[:, 1:])
    assert np.array_equal(after[:, -1], info["clicked"])


def test_a_short_observation_grows_to_the_right():
    env = make_env(history_length=61)
    observations, _ = env.reset(seed=0)
    lengths = (observations != 80).sum(axis=1)
    after, _, _, _, info = env.step(best(observations, env))
    assert ((after != 80).sum(axis=1) == np.minimum(lengths + 1, 61)).all()
    rows = np.flatnonzero(lengths < 61)
    assert np.array_equal(after[rows, lengths[rows]], info["clicked"][rows])


def test_the_same_seed_gives_the_same_episodes():
    runs = [run_episodes(make_env(no_click_logit=4.0), best, seed) for seed in (3, 3, 4)]
    assert np.array_equal(runs[0].reward, runs[1].reward)
    assert not np.array_equal(runs[0].reward, runs[2].reward)


def test_better_lists_give_more_clicks_turns_and_returns():
    good, random = (
        run_episodes(make_env(no_click_logit=3.0), policy, 0) for policy in (best, random_lists)
    )
    assert good.reward.mean() > 2 * random.reward.mean()
    assert good.turns.mean() > random.turns.mean()
    assert good.return_rate > random.return_rate


def test_clicks_follow_the_shops_click_probabilities():
    env = ShopVectorEnv(
        SHOP, DATASET, replace(ALWAYS_CLICK, satiation=0.0), users=np.zeros(4000, dtype=int)
    )
    env.reset(seed=1)
    probabilities = SHOP.click_probabilities(env._states)[0]
    lists = np.argsort(-probabilities)[:4]
    *_, info = env.step(np.tile(lists, (4000, 1)))
    share = [(info["clicked"] == item).mean() for item in lists]
    np.testing.assert_allclose(share, probabilities[lists] / probabilities[lists].sum(), atol=0.03)


def test_an_item_with_the_no_click_logit_is_clicked_half_the_time():
    env = ShopVectorEnv(
        SHOP, DATASET, EnvironmentConfig(list_length=1), users=np.zeros(4000, dtype=int)
    )
    env.reset(seed=1)
    probabilities = SHOP.click_probabilities(env._states)[0]
    level = float(np.log(probabilities.max() * 80))
    env.config = replace(env.config, no_click_logit=level)
    *_, info = env.step(np.full((4000, 1), probabilities.argmax()))
    assert (info["clicked"] >= 0).mean() == pytest.approx(0.5, abs=0.03)


def test_satiation_reduces_clicks_in_the_same_category():
    clicks = []
    for satiation in (0.0, 3.0):
        env = make_env(satiation=satiation)
        env.reset(seed=1)
        category = env.item_category
        env._recent_clicks[:, category[0]] = 1.0
        lists = np.array([0, *np.flatnonzero(category != category[0])[:3]])
        *_, info = env.step(np.tile(lists, (60, 1)))
        clicks.append((info["clicked"] == 0).sum())
    assert clicks[1] < clicks[0]


def test_satiation_decays_every_turn():
    env = make_env(satiation_decay=0.5)
    env.reset(seed=1)
    env._recent_clicks[:] = 1.0
    *_, info = env.step(env.action_space.sample())
    expected = np.full_like(env._recent_clicks, 0.5)
    expected[np.arange(60), env.item_category[info["clicked"]]] += 1
    np.testing.assert_allclose(env._recent_clicks, expected)


def test_an_item_listed_twice_counts_once():
    env = ShopVectorEnv(
        SHOP, DATASET, replace(ALWAYS_CLICK, satiation=0.0), users=np.zeros(4000, dtype=int)
    )
    env.reset(seed=1)
    probabilities = SHOP.click_probabilities(env._states)[0]
    a, b = np.argsort(-probabilities)[:2]
    *_, info = env.step(np.tile([a, a, a, b], (4000, 1)))
    assert (info["clicked"] == a).mean() == pytest.approx(
        probabilities[a] / (probabilities[a] + probabilities[b]), abs=0.03
    )


def test_a_terminated_user_gets_no_reward_and_does_not_return():
    env = make_env(leave_after_click=1.0, max_return_probability=0.0, min_return_probability=0.0)
    observations, _ = env.reset(seed=0)
    _, first, terminated, _, info = env.step(best(observations, env))
    assert first.sum() == 60
    assert terminated.all()
    assert info["left"].all()
    assert not info["returned"].any()
    _, second, terminated, truncated, info = env.step(best(observations, env))
    assert second.sum() == 0
    assert terminated.all()
    assert not truncated.any()
    assert (info["clicked"] == -1).all()


def test_a_new_session_resets_the_last_item_and_drifts_the_user_vector():
    env = make_env(leave_after_click=1.0, max_return_probability=1.0)
    observations, _ = env.reset(seed=0)
    before = env._states.vectors.copy()
    result = run_episodes(
        make_env(leave_after_click=1.0, max_return_probability=1.0, max_turns=5), best, 0
    )
    assert (result.sessions == 6).all()
    assert (result.turns == 5).all()
    env.step(best(observations, env))
    assert (env._states.last_item == -1).all()
    assert not np.allclose(env._states.vectors, before)
    gap = np.abs(env._states.vectors - np.sqrt(1 - 0.2**2) * before)
    assert gap.max() < 0.2 * 6


def test_users_return_more_often_after_sessions_with_clicks():
    levels = {"clicks": 50.0, "none": -50.0}
    return_rate = {}
    for name, level in levels.items():
        env = make_env(
            no_click_logit=-level, leave_after_no_click=1.0, leave_after_click=1.0, max_turns=1
        )
        return_rate[name] = run_episodes(env, best, 0).return_rate
    assert return_rate["clicks"] == pytest.approx(0.95, abs=0.1)
    assert return_rate["none"] == pytest.approx(0.4, abs=0.2)


@pytest.mark.parametrize("clicks", [[0], [0, 0, 0, 1], [1, 0], [1, 1, 0], [0, 1], [1]])
def test_the_return_probability_is_linear_in_the_click_rate_of_the_session(clicks):
    """From 0.4 without a click to 0.95 with a click in every turn."""
    env = ShopVectorEnv(SHOP, DATASET, ALWAYS_CLICK, users=np.zeros(3000, dtype=int))
    env.reset(seed=1)
    lists = np.tile(np.arange(4), (3000, 1))
    for turn, click in enumerate(clicks, 1):
        end = float(turn == len(clicks))
        level = -50.0 if click else 50.0
        env.config = replace(
            ALWAYS_CLICK, no_click_logit=level, leave_after_no_click=end, leave_after_click=end
        )
        *_, info = env.step(lists)
        assert (info["clicked"] >= 0).all() == click
    assert info["left"].all()
    assert info["returned"].mean() == pytest.approx(0.4 + 0.55 * np.mean(clicks), abs=0.03)


def test_sessions_counts_started_sessions():
    one_session = {"leave_after_click": 1.0, "max_return_probability": 0.0}
    assert (run_episodes(make_env(**one_session), best, 0).sessions == 1).all()
    env = make_env(
        no_click_logit=3.0, leave_after_no_click=0.6, max_return_probability=0.8, max_turns=500
    )
    result = run_episodes(env, best, 0)
    assert env.terminated.all()
    n_ended = result.sessions.sum()
    assert result.return_rate == pytest.approx(1 - 60 / n_ended)


def test_episodes_are_truncated_at_max_turns():
    result = run_episodes(make_env(max_turns=7), best, 0)
    assert (result.turns == 7).all()
    assert (result.reward == 7).all()


def test_reset_restores_the_initial_state():
    env = make_env(no_click_logit=4.0)
    assert np.array_equal(run_episodes(env, best, 1).reward, run_episodes(env, best, 1).reward)
    assert np.array_equal(
        SHOP.user_states().seen, ShopVectorEnv(SHOP, DATASET).shop.user_states().seen
    )


@pytest.mark.parametrize("name", ["popularity", "sasrec", "lightgcn"])
def test_a_model_policy_shows_unseen_items(name):
    model = build_model(name, DATASET, **({} if name == "popularity" else {"dim": 8}), seed=0)
    env = make_env(history_length=20)
    observations, _ = env.reset(seed=0)
    policy = model_policy(model)
    for _ in range(2):
        lists = policy(observations, env)
        assert lists.shape == (60, 4)
        assert not np.take_along_axis(env.seen, lists, axis=1).any()
        assert all(len(set(row)) == 4 for row in lists.tolist())
        observations, *_ = env.step(lists)


def test_the_popularity_policy_shows_the_most_popular_unseen_items():
    env = make_env()
    observations, _ = env.reset(seed=0)
    counts = np.bincount(DATASET.train.values, minlength=80)
    for user, lists in enumerate(
        model_policy(build_model("popularity", DATASET))(observations, env)
    ):
        unseen = np.where(env.seen[user], -1, counts)
        assert sorted(counts[lists].tolist()) == sorted(np.sort(unseen)[-4:].tolist())


def test_coverage_is_the_share_of_items_shown():
    env = make_env(max_turns=1)
    assert run_episodes(env, lambda *_: np.tile([0, 1, 2, 3], (60, 1)), 0).coverage == 4 / 80


def test_lists_longer_than_the_catalogue_are_rejected():
    with pytest.raises(ConfigError, match="list_length is 81, but the log has only 80 items"):
        ShopVectorEnv(SHOP, DATASET, EnvironmentConfig(list_length=81))


@pytest.mark.parametrize(
    "lists",
    [
        np.zeros((60, 3), dtype=int),
        np.zeros(4, dtype=int),
        np.full((60, 4), 80),
        np.full((60, 4), -2),
    ],
)
def test_invalid_actions_are_rejected(lists):
    env = make_env()
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"An action must be int64\[60, 4\], items from 0 to 79"):
        env.step(lists)


def test_an_empty_position_is_never_clicked_and_not_covered():
    env = make_env(max_turns=1)
    env.reset(seed=0)
    preferred = env.item_logits(np.arange(60)).argmax(axis=1)
    lists = np.full((60, 4), -1)
    assert lists in env.action_space
    *_, info = env.step(lists)
    assert (info["clicked"] == -1).all()
    lists[:, 2] = preferred
    env.reset(seed=0)
    *_, info = env.step(lists)
    assert np.array_equal(info["clicked"], preferred)
    assert run_episodes(env, lambda *_: lists, 0).coverage == len(np.unique(preferred)) / 80


def test_resetting_a_part_of_the_users_is_rejected():
    with pytest.raises(ConfigError, match=r"reset together; the options \['reset_mask'\]"):
        make_env().reset(options={"reset_mask": np.ones(60, dtype=bool)})


@pytest.mark.parametrize(
    "values",
    [
        {"list_length": 0},
        {"max_turns": 0},
        {"history_length": 0},
        {"satiation_decay": 5.0},
        {"leave_after_click": -1.0},
        {"leave_after_no_click": 1.5},
        {"max_return_probability": 3.0},
        {"min_return_probability": -0.1},
        {"satiation": -1.0},
        {"no_click_logit": float("nan")},
    ],
)
def test_invalid_settings_are_rejected(values):
    with pytest.raises(ValidationError, match=next(iter(values))):
        EnvironmentConfig(**values)


def test_reset_starts_a_session_without_a_last_item():
    env = make_env()
    env.reset(seed=0)
    states = SHOP.user_states()
    assert (states.last_item >= 0).any()
    states.last_item[:] = -1
    rows = np.arange(60)
    logits = np.log(np.maximum(SHOP.click_probabilities(states) * DATASET.n_items, 1e-12))
    assert np.array_equal(env.item_logits(rows), logits)
    assert not np.allclose(
        SHOP.click_probabilities(states), SHOP.click_probabilities(SHOP.user_states())
    )


def test_a_clicked_item_is_seen_from_then_on():
    env = make_env()
    observations, _ = env.reset(seed=0)
    before = env.seen.sum()
    *_, info = env.step(best(observations, env))
    assert env.seen[np.arange(60), info["clicked"]].all()
    assert env.seen.sum() == before + 60
    assert (env.item_logits(np.arange(60))[np.arange(60), info["clicked"]] < -20).all()


def test_a_returning_user_starts_a_new_session():
    env = make_env(leave_after_click=1.0, max_return_probability=1.0)
    observations, _ = env.reset(seed=0)
    *_, info = env.step(best(observations, env))
    assert info["returned"].all()
    assert (env.sessions == 0).all()
    assert (env._states.last_item == -1).all()


def test_lists_of_terminated_users_are_not_covered():
    def first_items(observations, env):
        lists = np.tile(np.arange(4), (len(observations), 1))
        lists[env.terminated] += 4
        return lists

    env = make_env(no_click_logit=50.0, leave_after_no_click=0.5, min_return_probability=0.0)
    assert run_episodes(env, first_items, 0).coverage == 4 / DATASET.n_items


def test_one_users_departure_does_not_change_the_others():
    """A user behaves the same whatever other users are lists."""

    def simulate(env, list_of_first_user):
        observations, _ = env.reset(seed=4)
        responses = []
        for _ in range(12):
            lists = best(observations, env)
            lists[0] = list_of_first_user(env)
            observations, _, terminated, _, info = env.step(lists)
            responses.append((info["clicked"][1:].tolist(), terminated[1:].tolist()))
        return responses, terminated[0]

    config = {"no_click_logit": 2.0, "leave_after_no_click": 0.6, "min_return_probability": 0.0}
    good, _ = simulate(make_env(**config), lambda env: best(None, env)[0])
    bad, terminated = simulate(
        make_env(**config), lambda env: np.argsort(env.item_logits(np.array([0]))[0])[:4]
    )
    assert terminated
    assert good == bad
