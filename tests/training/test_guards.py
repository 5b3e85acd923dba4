"""What worries in a log of GRPO, in words, and what does not."""

import math

import pytest

from recoach.training.guards import Concerned, concerns

GOOD = {"step": 10.0, "entropy": 3.0, "kl": 0.1}


@pytest.mark.parametrize(
    ("row", "beta", "words"),
    [
        ({}, 0.0, ""),
        ({}, 0.1, ""),
        ({"entropy": 0.01}, 0.0, "collapsed: its entropy fell from 3 to 0.01 nats"),
        ({"kl": 1e-9}, 0.1, "beta = 0.1 holds back nothing"),
        ({"kl": 1e-9}, 0.0, ""),
        ({"kl": 20.0}, 0.1, "little of the base is left"),
    ],
)
def test_only_what_is_wrong_is_said(row, beta, words):
    found = concerns(GOOD | row, GOOD, 1000, beta)
    assert len(found) == bool(words)
    assert words in " ".join(found)


def test_a_policy_that_was_sure_from_the_start_has_not_collapsed():
    assert concerns(GOOD | {"entropy": 0.01}, GOOD | {"entropy": 0.015}, 1000, 0.0) == []
    assert math.log(1000) * 0.02 > 0.01


def test_a_warning_comes_once():
    watching = Concerned(1000)
    watching.on_row({"step": 0.0})
    watching.on_row(GOOD)
    with pytest.warns(UserWarning, match="Step 20: The policy has collapsed"):
        watching.on_row(GOOD | {"entropy": 0.01, "step": 20.0})
    watching.on_row(GOOD | {"entropy": 0.01, "step": 30.0})  # a second one would be an error here
