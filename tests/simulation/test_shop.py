"""The simulated shop and the toy logs have the properties they promise."""

import time

import numpy as np
import pytest

from recoach.errors import DataError
from recoach.simulation.shop import EPOCH, Habits, shop
from toy_logs import block_graph, checkerboard, cycle, popularity_world


def rows_of(log):
    """Return the items of each user, in file order."""
    cuts = np.cumsum(np.bincount(log.users, minlength=len(log.user_ids)))[:-1]
    return np.split(log.items, cuts)


def hits(scores, histories, targets, k):
    """Return the share of targets that rank among the k best unseen items."""
    scores = scores.astype(float).round(9)  # ties stay ties and count as misses
    for row, history in zip(scores, histories, strict=True):
        row[history] = -np.inf
    target_scores = np.take_along_axis(scores, np.asarray(targets)[:, None], axis=1)
    return float(np.mean((scores >= target_scores).sum(axis=1) <= k))


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
    """Return scores of item-based cosine neighbours, which ignore the order."""
    seen = incidence(histories, n_items)
    cooccurrences = seen.T @ seen
    np.fill_diagonal(cooccurrences, 0)
    size = np.sqrt(seen.sum(axis=0) + 1)
    return seen @ (cooccurrences / np.outer(size, size))


def transition_scores(histories, n_items):
    """Return first-order transition counts, with the graph scores as tie breaker."""
    transitions = np.zeros((n_items, n_items))
    for history in histories:
        np.add.at(transitions, (history[:-1], history[1:]), 1)
    last = np.array([history[-1] for history in histories])
    return transitions[last] + 0.1 * graph_scores(histories, n_items)


@pytest.fixture(scope="module")
def store():
    return shop(600, 200, seed=3)


def test_the_default_shop_is_simulated_within_two_seconds():
    begin = time.process_time()
    log = shop().interactions
    assert time.process_time() - begin < 4  # twice the limit, because test machines are shared
    assert log.n_users == 2000
    assert 980 < log.n_items <= 1000


def test_the_log_depends_on_the_seed_alone():
    one, same, other = (shop(50, 60, seed=seed).interactions for seed in (1, 1, 2))
    assert np.array_equal(one.items, same.items)
    assert np.array_equal(one.times, same.times)
    assert len(one.items) != len(other.items) or not np.array_equal(one.items, other.items)


def test_the_seed_may_be_a_generator():
    log = shop(20, 60, seed=np.random.default_rng(7)).interactions
    assert np.array_equal(log.items, shop(20, 60, seed=7).interactions.items)


def test_lengths_are_skewed_between_8_and_60(store):
    lengths = np.bincount(store.interactions.users)
    assert lengths.min() == 8
    assert 40 < lengths.max() <= 60
    assert np.median(lengths) < lengths.mean()


def test_items_are_unique_per_user_and_times_increase(store):
    log = store.interactions
    assert len(np.unique(log.users.astype(np.int64) * 200 + log.items)) == len(log.items)
    same_user = np.diff(log.users) == 0
    assert (np.diff(log.times)[same_user] > 0).all()
    assert log.times.dtype == np.int64
    assert log.times.min() >= EPOCH


def test_ids_titles_and_categories(store):
    log = store.interactions
    assert log.user_ids[1] == "u0001"
    titles = dict(zip(log.item_ids, store.item_titles, strict=True))
    assert titles["item-0000"] == "Camping 01"
    assert titles["item-0199"] == "Woodwork 10"
    categories = dict(zip(log.item_ids, store.item_categories, strict=True))
    assert categories["item-0012"] == "Kitchen"


def test_every_item_of_the_log_is_clicked():
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


def test_preference_is_a_distribution_over_unseen_items(store):
    for user, row in enumerate(rows_of(store.interactions)[:20]):
        probabilities = store.preference(user)
        assert probabilities.shape == (store.interactions.n_items,)
        assert 0.95 < probabilities.sum() < 1 + 1e-9
        assert (probabilities[row] == 0).all()


def test_preference_depends_on_the_last_item(store):
    """If the item after the last one is unseen, it is the most likely of its category for most."""
    categories = np.array(store.item_categories)
    numbers = store.interactions.item_ids.str.slice(5).cast(int).to_list()
    item_of = {number: item for item, number in enumerate(numbers)}
    ranks = []
    for user, row in enumerate(rows_of(store.interactions)):
        probabilities, follower = store.preference(user), item_of.get(numbers[row[-1]] + 1, -1)
        if follower < 0 or categories[follower] != categories[row[-1]]:
            continue
        if probabilities[follower] > 0:
            same_category = categories == categories[follower]
            ranks.append((probabilities[same_category] >= probabilities[follower]).sum())
    assert np.mean(np.array(ranks) == 1) > 0.5


def test_with_noise_alone_clicks_follow_popularity():
    store = shop(3000, 40, seed=3, n_categories=4, habits=Habits(noise=1.0))
    rows = rows_of(store.interactions)
    weight = store._catalogue.popularity[store.catalogue_index]
    assert np.abs(np.bincount([row[0] for row in rows]) / 3000 - weight).max() < 0.015
    unseen = weight.copy()
    unseen[rows[5]] = 0
    np.testing.assert_allclose(store.preference(5), unseen / unseen.sum())


def test_preference_predicts_clicks_better_than_counts_of_the_log():
    """Next clicks sampled from `preference` are predicted best by `preference`."""
    store = shop(200, 60, seed=2, n_categories=3)
    true = np.array([store.preference(user) for user in range(200)])
    histories = rows_of(store.interactions)
    transitions = transition_scores(histories, store.interactions.n_items)
    rng = np.random.default_rng(0)
    targets = [
        rng.choice(len(probabilities), p=probabilities / probabilities.sum())
        for probabilities in true
    ]
    assert hits(true, histories, targets, 3) > hits(transitions, histories, targets, 3)


def test_transitions_beat_the_graph_and_the_graph_beats_popularity(store):
    histories, targets = leave_one_out(store.interactions)
    popular, graph, transitions = (
        hits(score(histories, 200), histories, targets, 10)
        for score in (popularity_scores, graph_scores, transition_scores)
    )
    assert popular + 0.05 < graph
    assert graph + 0.05 < transitions


def test_preferences_persist_over_sessions(store):
    """The last ten clicks fall in categories of the user's earlier clicks more than by chance."""
    category = np.unique(store.item_categories, return_inverse=True)[1]
    rows = [category[row] for row in rows_of(store.interactions) if len(row) >= 30]
    early = np.array([np.bincount(row[:-10], minlength=20) > 1 for row in rows])
    same_user = np.mean([early[i][row[-10:]].mean() for i, row in enumerate(rows)])
    other_user = np.mean([early[i - 1][row[-10:]].mean() for i, row in enumerate(rows)])
    assert same_user > 1.5 * other_user


def test_drift_reduces_the_persistence_of_preferences():
    constant, drifting = (
        shop(300, 1000, seed=1, habits=Habits(drift=drift, length=50)) for drift in (0.0, 1.0)
    )

    def persistence(store):
        category = np.unique(store.item_categories, return_inverse=True)[1]
        rows = [category[row] for row in rows_of(store.interactions) if len(row) >= 40]
        return np.mean([np.isin(row[-10:], row[:10]).mean() for row in rows])

    assert persistence(constant) > persistence(drifting) + 0.1


def test_a_category_without_unseen_items_ends_the_session():
    store = shop(100, 40, seed=0, n_categories=20)
    assert np.bincount(store.interactions.users).max() <= 20
    assert store.preference(0).sum() == pytest.approx(1)


@pytest.mark.parametrize(("users", "items"), [(0, 100), (5, 10)])
def test_a_shop_without_users_or_with_too_few_items_is_rejected(users, items):
    with pytest.raises(DataError, match="needs at least one user"):
        shop(users, items)


def test_the_last_item_of_the_checkerboard_is_the_only_unseen_one():
    histories, targets = leave_one_out(checkerboard(10, 8))
    for user, (history, target) in enumerate(zip(histories, targets, strict=True)):
        unseen = set(range(user % 2, 8, 2)) - set(history.tolist())
        assert unseen == {target}
    assert len(set(targets)) == 8


def test_popularity_is_optimal_in_the_popularity_world():
    log = popularity_world(4000)
    histories, targets = leave_one_out(log)
    true = np.tile(-np.arange(50), (4000, 1))
    best, popular, graph = (
        hits(scores, histories, targets, 10)
        for scores in (true, popularity_scores(histories, 50), graph_scores(histories, 50))
    )
    assert popular == pytest.approx(best, abs=0.005)
    assert graph < best + 0.01


def test_in_the_cycle_the_last_item_determines_the_next():
    histories, targets = leave_one_out(cycle())
    pairs = zip(histories, targets, strict=True)
    assert all((history[-1] + 1) % 30 == target for history, target in pairs)
    assert hits(transition_scores(histories, 30), histories, targets, 1) == 1.0
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
