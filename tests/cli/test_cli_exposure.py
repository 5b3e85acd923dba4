"""The reward `exposure` in a run: settings, logged values, refusals."""

import pytest


@pytest.fixture
def with_makers(toml, tmp_path):
    items = tmp_path / "items.csv"
    rows = [f"i{n},m{n % 4}" for n in range(40)]
    items.write_text("\n".join(["item_id,maker", *rows]) + "\n")
    path = tmp_path / "makers.toml"
    path.write_text(toml.read_text().replace("[data]", f'[data]\nitems = "{items}"'))
    return path


REWARDS = "finetune.reward_funcs=['future', 'exposure']"


def test_a_run_logs_how_even_the_exposure_is(recoach, with_makers, tmp_path, run_files):
    changes = (REWARDS, "finetune.exposure_column=maker", "finetune.epochs=2")
    result = recoach("run", with_makers, "--output", tmp_path / "run", "--set", *changes)
    assert result.code == 0, result.err
    rows = [row for row in run_files.metrics(tmp_path / "run") if row["stage"] == "tuned"]
    assert rows
    assert all(0 < row["valid/exposure/maker"] <= 1 for row in rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([REWARDS, "finetune.exposure_column=brand"], "no column 'brand'"),
        ([REWARDS, "evaluation.retrain=true"], "Set evaluation.retrain = false"),
        ([REWARDS, "finetune.estimator=stratified"], "'grpo' with estimator 'exact'"),
        (["finetune.exposure_column=maker"], "it belongs to reward 'exposure'"),
    ],
)
def test_what_exposure_cannot_use_is_refused_before_training(
    recoach, with_makers, tmp_path, changes, message
):
    result = recoach("run", with_makers, "--output", tmp_path / "run", "--set", *changes)
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "run" / "checkpoints").exists()
