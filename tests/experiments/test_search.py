"""The results of a search."""

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from recoach.experiments.config import read_config
from recoach.experiments.search import SearchPlan, _search_results
from recoach.experiments.space import read_space


@pytest.fixture
def plan():
    config = read_config(None)
    return SearchPlan(
        config, read_space(config.finetune, ["finetune.beta=0..1"]), 2, Path("unused")
    )


def test_a_pruned_trial_is_never_the_best(plan):
    study = optuna.create_study(direction="maximize")
    complete, pruned = (study.ask(plan.space) for _ in range(2))
    study.tell(complete, 0.3)
    pruned.report(0.9, step=1)
    pruned.set_user_attr("reason", "below the median at step 1")
    study.tell(pruned, state=TrialState.PRUNED)
    assert study.trials[1].value == 0.9
    results = _search_results(plan, study, base=0.2)
    assert [entry["value"] for entry in results["trials"]] == [0.3, None]
    assert results["trials"][1]["pruned"] == "below the median at step 1"
    assert results["best"] == 1
    assert _search_results(plan, study, base=0.5)["best"] is None
