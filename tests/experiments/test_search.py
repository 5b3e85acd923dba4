"""What the record of a search says of its trials."""

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from recoach.experiments.config import read_config
from recoach.experiments.search import SearchPlan, _record
from recoach.experiments.space import read_space


@pytest.fixture
def plan():
    config = read_config(None)
    return SearchPlan(config, read_space(config.grpo, ["grpo.beta=0..1"]), 2, Path("unused"))


def test_a_trial_that_was_stopped_is_never_the_best_however_high_it_stood(plan):
    study = optuna.create_study(direction="maximize")
    ended, stopped = (study.ask(plan.space) for _ in range(2))
    study.tell(ended, 0.3)
    stopped.report(0.9, step=1)
    stopped.set_user_attr("reason", "behind the median at step 1")
    study.tell(stopped, state=TrialState.PRUNED)
    assert study.trials[1].value == 0.9
    found = _record(plan, study, base=0.2)
    assert [entry["value"] for entry in found["trials"]] == [0.3, None]
    assert found["trials"][1]["pruned"] == "behind the median at step 1"
    assert found["best"] == 1
    assert _record(plan, study, base=0.5)["best"] is None
