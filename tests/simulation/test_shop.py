import time

import numpy as np
import pytest

from recoach.errors import DataError
from recoach.simulation.shop import (
    EPOCH,
    Habits,
    block_graph,
    checkerboard,
    cycle,
    popularity_world,
    shop,
)


def rows_of(log):
    """The items of each user, in file order."""
    cuts = np.cumsum(np.bincount(log.users, minlength=len(log.user_ids)))[:-1]
    return np.split(log.items, cuts)


def hits(scores, histories, targets, k):
    """The share of targets among the k best items that were not seen."""
    scores = scores.astype(float).round(9)  # a tie stays a tie, and counts as a miss
    for row, history in zip(scores, histories, strict=True):
        row[history] = -np.inf
    own = np.take_along_axis(scores, np.asarray(targets)[:, None], axis=1)
    return float(np.mean((scores >= own).sum(axis=1) <= k))


def leave_one_out(log):
    rows = rows_of(log)
    return [row[:-1] for row in rows], [row[-1] for row in rows]


def popularity_scores(histories, n_items):
    counts = np.bincount(np.concatenate(histories), minlength=n_items)
    return np.tile(counts, (len(histories), 1))


def incidence(histories, n_items):
    seen = np.zeros((len(histories), n_items))
    for row, history in zip(seen, histories, strict=True):
        row[history] = 1
    return seen


def graph_scores(histories, n_items):
    """Cosine item-to-item neighbours: who was bought together, in no order."""
    seen = incidence(histories, n_items)
    together = seen.T @ seen
    np.fill_diagonal(together, 0)
    size = np.sqrt(seen.sum(axis=0) + 1)
    return seen @ (together / np.outer(size, size))


def chain_scores(histories, n_items):
    """First-order transitions, with the graph as a tie breaker."""
    steps = np.zeros((n_items, n_items))
    for history in histories:
        np.add.at(steps, (history[:-1], history[1:]), 1)
    last = np.array([history[-1] for history in histories])
    return steps[last] + 0.1 * graph_scores(histories, n_items)


@pytest.fixture(scope="module")
def store():
    return shop(600, 200, seed=3)


def test_the_default_shop_opens_in_two_seconds():
    begin = time.process_time()
    log = shop().interactions
    assert time.process_time() - begin < 4  # twice the promise: the machine is shared
    assert log.n_users == 2000
    assert 980 < log.n_items <= 1000


def test_the_same_seed_gives_the_same_shop_and_another_seed_another():
    one, same, other = (shop(50, 60, seed=seed).interactions for seed in (1, 1, 2))
    assert np.array_equal(one.items, same.items)
    assert np.array_equal(one.times, same.times)
    assert len(one.items) != len(other.items) or not np.array_equal(one.items, other.items)


def test_a_generator_serves_as_a_seed():
    drawn = shop(20, 60, seed=np.random.default_rng(7)).interactions
    assert np.array_equal(drawn.items, shop(20, 60, seed=7).interactions.items)


def test_lengths_are_skewed_between_8_and_60(store):
    lengths = np.bincount(store.interactions.users)
    assert lengths.min() == 8
    assert 40 < lengths.max() <= 60
    assert np.median(lengths) < lengths.mean()


def test_nobody_sees_an_item_twice_and_times_run_forward(store):
    log = store.interactions
    assert len(np.unique(log.users.astype(np.int64) * 200 + log.items)) == len(log.items)
    same_user = np.diff(log.users) == 0
    assert (np.diff(log.times)[same_user] > 0).all()
    assert log.times.dtype == np.int64
    assert log.times.min() >= EPOCH


def test_ids_and_titles_are_those_of_a_shop(store):
    log = store.interactions
    assert log.user_ids[1] == "u0001"
    titles = dict(zip(log.item_ids, store.item_titles, strict=True))
    assert titles["item-0000"] == "Camping 01"
    assert titles["item-0199"] == "Woodwork 10"
    shelves = dict(zip(log.item_ids, store.item_categories, strict=True))
    assert shelves["item-0012"] == "Kitchen"


def test_every_item_of_the_vocabulary_occurs():
    log = shop(10, 1000).interactions
    assert len(np.unique(log.items)) == log.n_items == len(log.item_ids) < 1000


def test_titles_stay_unique_beyond_twenty_categories():
    store = shop(60, 120, n_categories=45)
    assert len(set(store.item_titles)) == store.interactions.n_items


def test_popularity_is_skewed(store):
    counts = np.sort(np.bincount(store.interactions.items, minlength=store.interactions.n_items))[
        ::-1
    ]
    assert counts[:20].sum() > 3 * counts[-100:].sum() / 5


def test_preference_is_a_law_over_unseen_items(store):
    for user, row in enumerate(rows_of(store.interactions)[:20]):
        law = store.preference(user)
        assert law.shape == (store.interactions.n_items,)
        assert 0.95 < law.sum() < 1 + 1e-9
        assert (law[row] == 0).all()


def test_preference_depends_on_the_last_item(store):
    """Where the item after the last one is unseen, it tops its shelf for most users."""
    shelves = np.array(store.item_categories)
    place_of = store.interactions.item_ids.str.slice(5).cast(int).to_list()
    place = {spot: item for item, spot in enumerate(place_of)}
    ranks = []
    for user, row in enumerate(rows_of(store.interactions)):
        law, follower = store.preference(user), place.get(place_of[row[-1]] + 1, -1)
        if follower >= 0 and shelves[follower] == shelves[row[-1]] and law[follower] > 0:
            ranks.append((law[shelves == shelves[follower]] >= law[follower]).sum())
    assert np.mean(np.array(ranks) == 1) > 0.5


def test_a_shop_of_noise_alone_follows_popularity_among_the_unseen():
    store = shop(3000, 40, seed=3, n_categories=4, habits=Habits(noise=1.0))
    rows = rows_of(store.interactions)
    weight = store._catalogue.popularity[store.sold]
    assert np.abs(np.bincount([row[0] for row in rows]) / 3000 - weight).max() < 0.015
    left = weight.copy()
    left[rows[5]] = 0
    np.testing.assert_allclose(store.preference(5), left / left.sum())


def test_the_truth_predicts_the_next_click_better_than_any_count_of_the_log():
    """Draw the next click of each user many times: the truth must be its frequency."""
    store = shop(200, 60, seed=2, n_categories=3)
    laws = np.array([store.preference(user) for user in range(200)])
    histories = rows_of(store.interactions)
    chain = chain_scores(histories, store.interactions.n_items)
    rng = np.random.default_rng(0)
    targets = [rng.choice(len(law), p=law / law.sum()) for law in laws]
    assert hits(laws, histories, targets, 3) > hits(chain, histories, targets, 3)


def test_order_beats_the_graph_and_the_graph_beats_popularity(store):
    histories, targets = leave_one_out(store.interactions)
    popular, graph, chain = (
        hits(score(histories, 200), histories, targets, 10)
        for score in (popularity_scores, graph_scores, chain_scores)
    )
    assert popular + 0.05 < graph
    assert graph + 0.05 < chain


def test_tastes_outlive_a_session(store):
    """The last ten clicks fall on shelves of the earlier log far more often than by chance."""
    shelf = np.unique(store.item_categories, return_inverse=True)[1]
    rows = [shelf[row] for row in rows_of(store.interactions) if len(row) >= 30]
    early = np.array([np.bincount(row[:-10], minlength=20) > 1 for row in rows])
    own = np.mean([early[i][row[-10:]].mean() for i, row in enumerate(rows)])
    foreign = np.mean([early[i - 1][row[-10:]].mean() for i, row in enumerate(rows)])
    assert own > 1.5 * foreign


def test_full_drift_wipes_a_taste_out_and_none_keeps_it():
    fixed, restless = (
        shop(300, 1000, seed=1, habits=Habits(drift=drift, length=50)) for drift in (0.0, 1.0)
    )

    def loyalty(store):
        shelf = np.unique(store.item_categories, return_inverse=True)[1]
        rows = [shelf[row] for row in rows_of(store.interactions) if len(row) >= 40]
        return np.mean([np.isin(row[-10:], row[:10]).mean() for row in rows])

    assert loyalty(fixed) > loyalty(restless) + 0.1


def test_a_small_shop_runs_out_of_a_shelf_without_failing():
    store = shop(100, 40, seed=0, n_categories=20)
    assert np.bincount(store.interactions.users).max() <= 20
    assert store.preference(0).sum() == pytest.approx(1)


@pytest.mark.parametrize(("users", "items"), [(0, 100), (5, 10)])
def test_an_empty_shop_is_refused(users, items):
    with pytest.raises(DataError, match="needs a user"):
        shop(users, items)


def test_the_held_out_item_of_the_checkerboard_is_the_only_one_left():
    histories, targets = leave_one_out(checkerboard(10, 8))
    for user, (history, target) in enumerate(zip(histories, targets, strict=True)):
        left = set(range(user % 2, 8, 2)) - set(history.tolist())
        assert left == {target}
    assert len(set(targets)) == 8


def test_popularity_is_as_good_as_the_truth_in_its_own_world():
    log = popularity_world(4000)
    histories, targets = leave_one_out(log)
    truth = np.tile(-np.arange(50), (4000, 1))
    best, popular, graph = (
        hits(scores, histories, targets, 10)
        for scores in (truth, popularity_scores(histories, 50), graph_scores(histories, 50))
    )
    assert popular == pytest.approx(best, abs=0.005)
    assert graph < best + 0.01


def test_the_last_item_decides_the_next_in_the_cycle():
    histories, targets = leave_one_out(cycle())
    pairs = zip(histories, targets, strict=True)
    assert all((history[-1] + 1) % 30 == target for history, target in pairs)
    assert hits(chain_scores(histories, 30), histories, targets, 1) == 1.0
    assert hits(graph_scores(histories, 30), histories, targets, 1) == 0.0


def test_the_graph_finds_the_block_and_popularity_does_not():
    log = block_graph()
    assert (log.items % 4 == log.users % 4).all()
    histories, targets = leave_one_out(log)
    graph, popular = (
        hits(score(histories, 60), histories, targets, 6)
        for score in (graph_scores, popularity_scores)
    )
    assert graph == 1.0
    assert popular < 0.5
