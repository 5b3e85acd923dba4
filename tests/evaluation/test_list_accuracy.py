from dataclasses import replace

import numpy as np
import pytest

import recoach
from recoach.data.targets import targets_of
from recoach.evaluation.evaluator import evaluate_targets, top_lists
from recoach.evaluation.list_accuracy import list_accuracy, ranks_in_lists
from recoach.evaluation.metrics import MISS


@pytest.fixture(scope="module")
def evaluated():
    dataset = recoach.leave_last_out(recoach.shop(n_users=80, n_items=40).interactions)
    model = recoach.build_model("sasrec", dataset, dim=8, layers=1)
    targets = targets_of(dataset, "test")
    return model, dataset, targets


def test_the_accuracy_of_the_lists_of_a_model_is_that_of_its_ranking(evaluated):
    model, dataset, targets = evaluated
    full = evaluate_targets(model, dataset, targets, ks=(7,))
    lists = top_lists(model, dataset, targets, 7)
    values = list_accuracy(lists, targets, ("ndcg", "recall", "novelty"))
    assert sorted(values) == ["ndcg@7", "recall@7"]
    for name, of_states in values.items():
        assert of_states.tolist() == full.metrics[name].tolist()
    assert 0 < values["recall@7"].mean() < 1


def test_a_target_outside_its_list_and_a_cold_one_are_misses(evaluated):
    _, _, targets = evaluated
    lists = np.stack([np.full(len(targets.users), -1), targets.items], axis=1)
    assert (ranks_in_lists(lists, targets) == np.where(targets.cold, MISS, 2)).all()
    assert (ranks_in_lists(lists[:, :1], targets) == MISS).all()


def test_a_cold_target_is_a_miss_unless_it_repeats(evaluated):
    _, _, targets = evaluated
    numbers = np.arange(len(targets.items))
    marked = replace(targets, cold=numbers % 2 == 0, repeated=numbers % 4 == 0)
    found = ranks_in_lists(targets.items[:, None], marked)
    assert (found == np.where(numbers % 4 == 2, MISS, 1)).all()
