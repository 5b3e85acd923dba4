"""V-SKNN and (V)STAN against their formulas, computed session by session."""

import copy
from math import exp, log, log10, sqrt

import numpy as np
import pytest
import torch
from neighbour_logs import model_of, scores_of

from recoach.errors import ConfigError
from recoach.models.neighbours.vstan import VSTANConfig

N_ITEMS, DAY = 12, 86_400_000
RNG = np.random.default_rng(3)
SESSIONS = [RNG.integers(0, N_ITEMS - 1, size=RNG.integers(0, 8)).tolist() for _ in range(40)]
HISTORIES = [[3], [1, 4, 1, 7], [2, 2], [9, 0, 5, 6, 10, 3, 3, 8], [], [11]]
IDF = [
    log(sum(map(bool, SESSIONS)) / max(1, sum(j in s for s in SESSIONS))) for j in range(N_ITEMS)
]
WEIGHTS = {
    "same": lambda p, n: 1,
    "div": lambda p, n: p / n,
    "linear": lambda p, n: max(0, 1 - (n - p) / 10),
    "log": lambda p, n: 1 / log10(n - p + 1.7),
    "quadratic": lambda p, n: (p / n) ** 2,
}
DECAYS = {
    "same": lambda k: 1,
    "div": lambda k: 1 / k,
    "linear": lambda k: max(0, 1 - k / 10),
    "log": lambda k: 1 / log10(k + 1.7),
    "quadratic": lambda k: 1 / k**2,
}


def last_places(items):
    return {item: place for place, item in enumerate(items, 1)}


def neighbours(history, similarity, k, sample):
    """Return (similarity, session) of the k most similar of the most recent candidates."""
    candidates = [s for s in range(len(SESSIONS)) if set(SESSIONS[s]) & set(history)][-sample:]
    ranked = sorted((-similarity(s), -s) for s in candidates)[:k]
    return [(-value, -session) for value, session in ranked]


def vsknn(history, config):
    places, scores = last_places(history), np.zeros(N_ITEMS)
    weight = WEIGHTS[config["weighting"]]

    def similarity(s):
        shared = set(SESSIONS[s]) & set(places)
        return sum(weight(places[i], len(history)) for i in sorted(shared)) / len(places)

    for value, s in neighbours(history, similarity, config["neighbours"], config["sample"]):
        step = len(history) - max(places[i] for i in set(SESSIONS[s]) & set(places)) + 1
        for j in set(SESSIONS[s]):
            scores[j] += value * DECAYS[config["decay"]](step) * (1 + config["idf_weight"] * IDF[j])
    return scores


def vstan(history, config, ages=None):
    places, scores, length = last_places(history), np.zeros(N_ITEMS), len(history)
    weights = {i: exp((p - length) / config["lambda_spw"]) for i, p in places.items()}
    norm = sqrt(sum(w * w for w in weights.values()))

    def similarity(s):
        shared = set(SESSIONS[s]) & set(places)
        value = sum(weights[i] for i in sorted(shared)) / norm / sqrt(len(set(SESSIONS[s])))
        if ages is not None:
            value *= exp(-ages[s] / config["lambda_snh"])
        if config["lambda_ipw"]:
            value *= exp((max(places[i] for i in shared) - length) / config["lambda_ipw"])
        return value

    for value, s in neighbours(history, similarity, config["neighbours"], config["sample"]):
        others = last_places(SESSIONS[s])
        last = max(others[i] for i in set(others) & set(places))
        for j, place in others.items():
            decay = exp(-abs(place - last) / config["lambda_inh"])
            scores[j] += value * decay * (1 + config["idf_weight"] * IDF[j])
    return scores


def assert_scores(result, expected):
    """Check the scores of items with a positive sum; all others are below zero, by popularity."""
    scored = torch.from_numpy(expected > 0)
    assert torch.allclose(result[scored], torch.from_numpy(expected).float()[scored], rtol=1e-4)
    assert bool((result[~scored] < 0).all())


@pytest.mark.parametrize("weighting", WEIGHTS)
@pytest.mark.parametrize(("k", "sample", "idf"), [(100, 100, 0), (4, 9, 2.0), (1, 1, 0)])
def test_vsknn_is_the_formula(weighting, k, sample, idf):
    decay = list(WEIGHTS)[-list(WEIGHTS).index(weighting) - 1]
    config = {"neighbours": k, "sample": sample, "weighting": weighting, "decay": decay}
    config |= {"idf_weight": idf}
    model = model_of("vsknn", SESSIONS, N_ITEMS, **config)
    for history, result in zip(HISTORIES, scores_of(model, *HISTORIES), strict=True):
        assert_scores(result, vsknn(history, config))


@pytest.mark.parametrize("changes", [{}, {"lambda_ipw": 0, "idf_weight": 0}, {"sample": 5}])
@pytest.mark.parametrize("preset", ["long_decay", "short_decay"])
def test_vstan_is_the_formula(preset, changes):
    config = VSTANConfig(preset=preset, **changes, neighbours=4).model_dump()
    model = model_of("vstan", SESSIONS, N_ITEMS, **config)
    for history, result in zip(HISTORIES, scores_of(model, *HISTORIES), strict=True):
        assert_scores(result, vstan(history, config))


def test_older_sessions_weigh_less_where_the_log_has_times():
    days = np.repeat(np.arange(len(SESSIONS)), [len(s) for s in SESSIONS])
    config = {"neighbours": 3, "sample": 50, "lambda_snh": 2.0, "idf_weight": 0.0}
    model = model_of("vstan", SESSIONS, N_ITEMS, times=days * DAY, **config)
    history = [1, 4, 1, 7]
    newest = max(s for s in range(len(SESSIONS)) if set(SESSIONS[s]) & set(history))
    expected = vstan(history, model.config.model_dump(), newest - np.arange(len(SESSIONS)))
    assert_scores(scores_of(model, history)[0], expected)
    without = model_of("vstan", SESSIONS, N_ITEMS, times=days * DAY, **config | {"lambda_snh": 0})
    assert not torch.allclose(scores_of(without, history)[0], scores_of(model, history)[0])


def test_sessions_are_recent_by_the_time_of_their_last_item():
    rows, times = [[0, 1], [0, 2], [0, 3]], [5, 6, 1, 9, 2, 3]
    for name in ("vsknn", "vstan"):
        model = model_of(name, rows, 4, times=times, sample=1)
        assert (scores_of(model, [0])[0] > 0).tolist() == [True, False, True, False]


def test_the_own_training_row_of_a_user_is_no_neighbour():
    rows = [[0, 1], [0, 2]]
    for name in ("vsknn", "vstan"):
        model = model_of(name, rows, 3)
        assert (scores_of(model, [0], users=[0])[0] > 0).tolist() == [True, False, True]
        assert (scores_of(model, [0], users=[-1])[0] > 0).tolist() == [True, True, True]
        recent = model_of(name, rows, 3, sample=1)
        assert (scores_of(recent, [0], users=[1])[0] > 0).tolist() == [True, True, False]


def test_blocks_of_any_size_give_the_same_scores(monkeypatch):
    for name in ("vsknn", "vstan"):
        model = model_of(name, SESSIONS, N_ITEMS, neighbours=5, sample=7)
        expected = scores_of(model, *HISTORIES)
        with monkeypatch.context() as context:
            context.setattr("recoach.models.neighbours.session_index._PAIRS", 1)
            assert torch.equal(scores_of(model, *HISTORIES), expected)


def test_of_equally_similar_sessions_the_most_recent_are_neighbours():
    for name in ("vsknn", "vstan"):
        model = model_of(name, [[0, 1], [0, 2], [0, 3]], 4, neighbours=1)
        assert (scores_of(model, [0])[0] > 0).tolist() == [True, False, False, True]


def test_a_preset_gives_defaults_that_other_settings_replace():
    config = VSTANConfig(preset="short_decay", lambda_inh=2.0)
    assert (config.neighbours, config.sample, config.lambda_inh) == (1000, 2500, 2.0)
    assert VSTANConfig(**config.model_dump()) == config
    assert VSTANConfig() == VSTANConfig(preset="long_decay")
    with pytest.raises(ConfigError, match="preset"):
        VSTANConfig(preset=[])


def test_copies_share_the_index():
    model = model_of("vsknn", SESSIONS, N_ITEMS)
    assert copy.deepcopy(model).index is model.index
