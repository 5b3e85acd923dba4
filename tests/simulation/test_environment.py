from dataclasses import replace

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from pydantic import ValidationError

from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.models.registry import build_model
from recoach.simulation.environment import Customer, Customers, Moods, play, served_by
from recoach.simulation.shop import shop

SHOP = shop(60, 80, seed=0, n_categories=4)
DATASET = leave_last_out(SHOP.interactions)
ALWAYS = Moods(list_length=4, outside=-50.0, leave_after_click=0.0)
"""Somebody always clicks, and nobody leaves."""


def customers(**moods):
    return Customers(SHOP, DATASET, replace(ALWAYS, **moods))


def best(observed, shop_floor):
    """Show what people would like most, which only the simulator knows."""
    del observed
    return np.argsort(-SHOP.law(shop_floor._visitors), axis=1)[:, : shop_floor.moods.list_length]


def anything(observed, shop_floor):
    rng = np.random.default_rng(int((observed != shop_floor.n_items).sum()))
    return rng.permuted(np.tile(np.arange(80), (60, 1)), axis=1)[:, : shop_floor.moods.list_length]


def test_one_customer_is_a_gymnasium_environment():
    check_env(Customer(SHOP, DATASET), skip_render_check=True)


def test_the_seed_draws_which_customer_it_is():
    one = Customer(SHOP, DATASET, ALWAYS)
    windows, _ = customers().reset(seed=0)
    met = []
    for seed in (*range(12), *range(12)):
        observed, info = one.reset(seed=seed)
        assert np.array_equal(observed, windows[info["user"]])
        met.append(int(info["user"]))
    assert met[:12] == met[12:]
    assert len(set(met)) > 6
    assert len({int(one.reset()[1]["user"]) for _ in range(12)}) > 6


def test_all_customers_are_a_vector_environment():
    floor = customers()
    observed, info = floor.reset(seed=0)
    assert observed in floor.observation_space
    assert floor.action_space.sample() in floor.action_space
    assert info["user"].tolist() == list(range(60))
    observed, rewards, gone, late, info = floor.step(best(observed, floor))
    assert observed in floor.observation_space
    assert rewards.tolist() == [1.0] * 60
    assert not gone.any()
    assert not late.any()


def test_histories_begin_where_the_log_ends_and_grow_by_what_is_clicked():
    floor = customers(memory=6)
    observed, _ = floor.reset(seed=0)
    for user in (0, 7):
        rows = (DATASET.train.row(user), DATASET.valid.row(user), DATASET.test.row(user))
        assert observed[user].tolist() == np.concatenate(rows)[-6:].tolist()
    after, _, _, _, info = floor.step(best(observed, floor))
    assert np.array_equal(after[:, :-1], observed[:, 1:])
    assert np.array_equal(after[:, -1], info["clicked"])


def test_a_history_shorter_than_the_memory_grows_to_the_right():
    floor = customers(memory=61)
    observed, _ = floor.reset(seed=0)
    long = (observed != 80).sum(axis=1)
    after, _, _, _, info = floor.step(best(observed, floor))
    assert ((after != 80).sum(axis=1) == np.minimum(long + 1, 61)).all()
    rows = np.flatnonzero(long < 61)
    assert np.array_equal(after[rows, long[rows]], info["clicked"][rows])


def test_the_same_seed_brings_the_same_luck():
    runs = [play(customers(outside=4.0), best, seed) for seed in (3, 3, 4)]
    assert np.array_equal(runs[0].reward, runs[1].reward)
    assert not np.array_equal(runs[0].reward, runs[2].reward)


def test_what_people_like_keeps_them_longer():
    liked, shown = (play(customers(outside=3.0), policy, 0) for policy in (best, anything))
    assert liked.reward.mean() > 2 * shown.reward.mean()
    assert liked.turns.mean() > shown.turns.mean()
    assert liked.return_rate > shown.return_rate


def test_clicks_follow_the_law_of_the_shop():
    floor = Customers(SHOP, DATASET, replace(ALWAYS, boredom=0.0), users=np.zeros(4000, dtype=int))
    floor.reset(seed=1)
    law = SHOP.law(floor._visitors)[0]
    shown = np.argsort(-law)[:4]
    *_, info = floor.step(np.tile(shown, (4000, 1)))
    share = [(info["clicked"] == item).mean() for item in shown]
    np.testing.assert_allclose(share, law[shown] / law[shown].sum(), atol=0.03)


def test_the_best_item_at_the_edge_is_clicked_half_the_time():
    floor = Customers(SHOP, DATASET, Moods(list_length=1), users=np.zeros(4000, dtype=int))
    floor.reset(seed=1)
    law = SHOP.law(floor._visitors)[0]
    level = float(np.log(law.max() * 80))
    floor.moods = replace(floor.moods, outside=level)
    *_, info = floor.step(np.full((4000, 1), law.argmax()))
    assert (info["clicked"] >= 0).mean() == pytest.approx(0.5, abs=0.03)


def test_a_shelf_just_bought_from_bores():
    shares = []
    for boredom in (0.0, 3.0):
        floor = customers(boredom=boredom)
        floor.reset(seed=1)
        shelf = floor.shelf
        floor._bored[:, shelf[0]] = 1.0
        shown = np.array([0, *np.flatnonzero(shelf != shelf[0])[:3]])
        *_, info = floor.step(np.tile(shown, (60, 1)))
        shares.append((info["clicked"] == 0).sum())
    assert shares[1] < shares[0]


def test_boredom_passes():
    floor = customers(recovery=0.5)
    floor.reset(seed=1)
    floor._bored[:] = 1.0
    *_, info = floor.step(floor.action_space.sample())
    expected = np.full_like(floor._bored, 0.5)
    expected[np.arange(60), floor.shelf[info["clicked"]]] += 1
    np.testing.assert_allclose(floor._bored, expected)


def test_an_item_shown_twice_counts_once():
    floor = Customers(SHOP, DATASET, replace(ALWAYS, boredom=0.0), users=np.zeros(4000, dtype=int))
    floor.reset(seed=1)
    law = SHOP.law(floor._visitors)[0]
    a, b = np.argsort(-law)[:2]
    *_, info = floor.step(np.tile([a, a, a, b], (4000, 1)))
    assert (info["clicked"] == a).mean() == pytest.approx(law[a] / (law[a] + law[b]), abs=0.03)


def test_who_has_gone_earns_nothing_and_stays_away():
    floor = customers(leave_after_click=1.0, return_at_best=0.0, return_at_worst=0.0)
    observed, _ = floor.reset(seed=0)
    _, first, gone, _, info = floor.step(best(observed, floor))
    assert first.sum() == 60
    assert gone.all()
    assert info["left"].all()
    assert not info["returned"].any()
    _, second, gone, late, info = floor.step(best(observed, floor))
    assert second.sum() == 0
    assert gone.all()
    assert not late.any()
    assert (info["clicked"] == -1).all()


def test_a_new_session_begins_without_the_last_item_and_with_a_changed_taste():
    floor = customers(leave_after_click=1.0, return_at_best=1.0)
    observed, _ = floor.reset(seed=0)
    before = floor._visitors.taste.copy()
    stay = play(customers(leave_after_click=1.0, return_at_best=1.0, turns=5), best, 0)
    assert (stay.sessions == 6).all()
    assert (stay.turns == 5).all()
    floor.step(best(observed, floor))
    assert (floor._visitors.last == -1).all()
    assert not np.allclose(floor._visitors.taste, before)
    gap = np.abs(floor._visitors.taste - np.sqrt(1 - 0.2**2) * before)
    assert gap.max() < 0.2 * 6


def test_a_session_full_of_clicks_brings_people_back_more_often():
    found = {"clicks": 50.0, "none": -50.0}
    back = {}
    for name, level in found.items():
        floor = customers(outside=-level, leave_after_none=1.0, leave_after_click=1.0, turns=1)
        back[name] = play(floor, best, 0).return_rate
    assert back["clicks"] == pytest.approx(0.95, abs=0.1)
    assert back["none"] == pytest.approx(0.4, abs=0.2)


@pytest.mark.parametrize("clicks", [[0], [0, 0, 0, 1], [1, 0], [1, 1, 0], [0, 1], [1]])
def test_the_chance_of_another_visit_rises_evenly_with_the_clicks_of_the_whole_last_one(clicks):
    """From .4 after none to .95 after a visit with a click in every turn."""
    floor = Customers(SHOP, DATASET, ALWAYS, users=np.zeros(3000, dtype=int))
    floor.reset(seed=1)
    lists = np.tile(np.arange(4), (3000, 1))
    for turn, click in enumerate(clicks, 1):
        over = float(turn == len(clicks))
        level = -50.0 if click else 50.0
        floor.moods = replace(ALWAYS, outside=level, leave_after_none=over, leave_after_click=over)
        *_, info = floor.step(lists)
        assert (info["clicked"] >= 0).all() == click
    assert info["left"].all()
    assert info["returned"].mean() == pytest.approx(0.4 + 0.55 * np.mean(clicks), abs=0.03)


def test_visits_are_those_that_began():
    last_visits = {"leave_after_click": 1.0, "return_at_best": 0.0}
    assert (play(customers(**last_visits), best, 0).sessions == 1).all()
    floor = customers(outside=3.0, leave_after_none=0.6, return_at_best=0.8, turns=500)
    stay = play(floor, best, 0)
    assert floor.gone.all()
    ended = stay.sessions.sum()
    assert stay.return_rate == pytest.approx(1 - 60 / ended)


def test_the_turns_end():
    stay = play(customers(turns=7), best, 0)
    assert (stay.turns == 7).all()
    assert (stay.reward == 7).all()


def test_resetting_forgets_everything():
    floor = customers(outside=4.0)
    assert np.array_equal(play(floor, best, 1).reward, play(floor, best, 1).reward)
    assert np.array_equal(SHOP.visitors().seen, Customers(SHOP, DATASET).shop.visitors().seen)


@pytest.mark.parametrize("name", ["popularity", "sasrec", "lightgcn"])
def test_a_model_serves_its_best_unseen_items(name):
    model = build_model(name, DATASET, **({} if name == "popularity" else {"dim": 8}), seed=0)
    floor = customers(memory=20)
    observed, _ = floor.reset(seed=0)
    policy = served_by(model)
    for _ in range(2):
        shown = policy(observed, floor)
        assert shown.shape == (60, 4)
        assert not np.take_along_axis(floor.seen, shown, axis=1).any()
        assert all(len(set(row)) == 4 for row in shown.tolist())
        observed, *_ = floor.step(shown)


def test_popularity_serves_the_most_popular():
    floor = customers()
    observed, _ = floor.reset(seed=0)
    counts = np.bincount(DATASET.train.values, minlength=80)
    for user, shown in enumerate(served_by(build_model("popularity", DATASET))(observed, floor)):
        unseen = np.where(floor.seen[user], -1, counts)
        assert sorted(counts[shown].tolist()) == sorted(np.sort(unseen)[-4:].tolist())


def test_coverage_counts_what_somebody_who_was_there_was_shown():
    floor = customers(turns=1)
    assert play(floor, lambda *_: np.tile([0, 1, 2, 3], (60, 1)), 0).coverage == 4 / 80


def test_lists_longer_than_the_catalogue_are_refused():
    with pytest.raises(ConfigError, match="lists of 81"):
        Customers(SHOP, DATASET, Moods(list_length=81))


@pytest.mark.parametrize(
    "lists",
    [
        np.zeros((60, 3), dtype=int),
        np.zeros(4, dtype=int),
        np.full((60, 4), 80),
        np.full((60, 4), -2),
    ],
)
def test_lists_that_cannot_be_shown_are_refused(lists):
    floor = customers()
    floor.reset(seed=0)
    with pytest.raises(ConfigError, match=r"an action is int64\[60, 4\], items from 0 to 79"):
        floor.step(lists)


def test_an_empty_place_is_never_clicked_and_covers_nothing():
    floor = customers(turns=1)
    floor.reset(seed=0)
    liked = floor.worth(np.arange(60)).argmax(axis=1)
    lists = np.full((60, 4), -1)
    assert lists in floor.action_space
    *_, info = floor.step(lists)
    assert (info["clicked"] == -1).all()
    lists[:, 2] = liked
    floor.reset(seed=0)
    *_, info = floor.step(lists)
    assert np.array_equal(info["clicked"], liked)
    assert play(floor, lambda *_: lists, 0).coverage == len(np.unique(liked)) / 80


def test_a_part_of_the_customers_cannot_be_reset():
    with pytest.raises(ConfigError, match=r"all together; \['reset_mask'\]"):
        customers().reset(options={"reset_mask": np.ones(60, dtype=bool)})


@pytest.mark.parametrize(
    "moods",
    [
        {"list_length": 0},
        {"turns": 0},
        {"memory": 0},
        {"recovery": 5.0},
        {"leave_after_click": -1.0},
        {"leave_after_none": 1.5},
        {"return_at_best": 3.0},
        {"return_at_worst": -0.1},
        {"boredom": -1.0},
        {"outside": float("nan")},
    ],
)
def test_moods_that_nobody_has_are_refused(moods):
    with pytest.raises(ValidationError, match=next(iter(moods))):
        Moods(**moods)


def test_a_visit_begins_without_the_last_item_of_the_log():
    floor = customers()
    floor.reset(seed=0)
    fresh = SHOP.visitors()
    assert (fresh.last >= 0).any()
    fresh.last[:] = -1
    everybody = np.arange(60)
    worth = np.log(np.maximum(SHOP.law(fresh) * DATASET.n_items, 1e-12))
    assert np.array_equal(floor.worth(everybody), worth)
    assert not np.allclose(SHOP.law(fresh), SHOP.law(SHOP.visitors()))


def test_what_is_clicked_is_seen_from_then_on():
    floor = customers()
    observed, _ = floor.reset(seed=0)
    before = floor.seen.sum()
    *_, info = floor.step(best(observed, floor))
    assert floor.seen[np.arange(60), info["clicked"]].all()
    assert floor.seen.sum() == before + 60
    assert (floor.worth(np.arange(60))[np.arange(60), info["clicked"]] < -20).all()


def test_who_comes_back_begins_a_session_of_his_own():
    floor = customers(leave_after_click=1.0, return_at_best=1.0)
    observed, _ = floor.reset(seed=0)
    *_, info = floor.step(best(observed, floor))
    assert info["returned"].all()
    assert (floor._session == 0).all()
    assert (floor._visitors.last == -1).all()


def test_lists_for_those_who_have_gone_cover_nothing():
    def first_items(observed, floor):
        lists = np.tile(np.arange(4), (len(observed), 1))
        lists[floor.gone] += 4
        return lists

    floor = customers(outside=50.0, leave_after_none=0.5, return_at_worst=0.0)
    assert play(floor, first_items, 0).coverage == 4 / DATASET.n_items


def test_who_goes_leaves_the_luck_of_the_others_as_it_is():
    """A customer does the same whatever is shown to somebody else."""

    def served(floor, first_user_sees):
        observed, _ = floor.reset(seed=4)
        told = []
        for _ in range(12):
            lists = best(observed, floor)
            lists[0] = first_user_sees(floor)
            observed, _, gone, _, info = floor.step(lists)
            told.append((info["clicked"][1:].tolist(), gone[1:].tolist()))
        return told, gone[0]

    likes = {"outside": 2.0, "leave_after_none": 0.6, "return_at_worst": 0.0}
    liked, _ = served(customers(**likes), lambda floor: best(None, floor)[0])
    bored, left = served(
        customers(**likes), lambda floor: np.argsort(floor.worth(np.array([0]))[0])[:4]
    )
    assert left
    assert liked == bored
