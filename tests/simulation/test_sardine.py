"""The references of SARDINE, which is no dependency: `pip install sardine-rec==1.0.8`."""

import sys

import pytest

from pages import ROOT

pytest.importorskip("sardine")
sys.path.insert(0, str(ROOT / "benchmarks"))
simulators = pytest.importorskip("simulators")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [simulators.SINGLE, simulators.SLATES])
def test_the_rules_have_the_returns_of_an_independent_computation(name):
    for rule, published in zip(simulators.RULES, simulators.PUBLISHED[name], strict=True):
        played = simulators.run_rule(name, rule)
        assert abs(played["return"] - published) < 3 * played["error"], rule
