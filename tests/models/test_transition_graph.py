import copy
from itertools import pairwise

import numpy as np
import pytest
import torch

from recoach.data.dataset import RaggedArray
from recoach.data.split import leave_last_out
from recoach.models.session.transition_graph import transition_graph
from toy_logs import cycle


def sessions(*rows):
    lengths = np.array([len(row) for row in rows])
    return RaggedArray.from_lengths(lengths, np.concatenate(rows).astype(np.int32))


# Items 0..5. 0 -> 1 twice, 0 -> 2 once, 1 -> 1 once, 1 -> 2 once; 2 and 3 are only ever last or
# alone, 4 follows itself across two sessions only, 5 never occurs.
TRAIN = sessions([0, 1, 1, 2], [], [0, 2], [3], [0, 1], [4], [4])


def dense(normalisation):
    return transition_graph(TRAIN, 6, normalisation)(torch.eye(6))


def test_rows_are_transitions_with_a_self_weight_divided_by_their_sums():
    expected = torch.zeros(6, 6)
    expected[0, [0, 1, 2]] = torch.tensor([1.0, 2.0, 1.0]) / 4
    expected[1, [1, 2]] = torch.tensor([1.0 + 1.0, 1.0]) / 3  # one transition, one self weight
    assert torch.allclose(dense("rows"), expected)


def test_columns_are_divided_by_their_sums():
    expected = torch.zeros(6, 6)
    expected[0, 0] = 1
    expected[[0, 1], 1] = torch.tensor([2.0, 2.0]) / 4
    expected[[0, 1], 2] = torch.tensor([1.0, 1.0]) / 2
    assert torch.allclose(dense("columns"), expected)


def test_the_graph_has_transitions_of_train_only():
    # Every user goes through a cycle of 20 items; train has the first 5 of 7.
    dataset = leave_last_out(cycle(12, 20, length=7))
    matrix = transition_graph(dataset.train, 20)(torch.eye(20))
    pairs = {tuple(pair) for pair in torch.nonzero(matrix).tolist()}
    rows = [dataset.train.row(user).tolist() for user in range(12)]
    followed = {item for row in rows for item in row[:-1]}
    expected = {pair for row in rows for pair in pairwise(row)}
    assert pairs == expected | {(item, item) for item in followed}


@pytest.mark.parametrize("rows", [[[], []], [[3], [1]]])
def test_sessions_without_transitions_give_an_empty_graph(rows):
    matrix = transition_graph(sessions(*rows), 4)
    assert not matrix(torch.eye(4)).any()


def test_copies_share_the_graph_and_it_can_be_built_on_the_meta_device():
    graph = transition_graph(TRAIN, 6)
    assert copy.deepcopy(graph) is graph
    with torch.device("meta"):
        assert not transition_graph(TRAIN, 6).state_dict()
