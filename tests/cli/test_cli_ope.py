"""`recoach ope`: tables, sentences, refusals with exit code 2, JSON."""

import json

import polars as pl
import pytest

from ope_logs import sampled_rows, table
from recoach.cli.serve import read_snapshot
from recoach.experiments.run_folder import RunFolder
from recoach.serving.exploration import ServedPolicy
from recoach.serving.exposures import Exposure, ExposureLog

RATES = (0.1, 0.3, 0.6)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ope")
    frame = sampled_rows(3000, (5, 3, 2), RATES).rename({"reward": "click"})
    frame.write_csv(folder / "log.csv")
    table((2, 3, 5)).write_csv(folder / "good.csv")
    table((8, 1, 1)).write_csv(folder / "bad.csv")
    return folder


def test_policies_are_compared(recoach, files, tmp_path):
    output = tmp_path / "found.json"
    policies = [files / "bad.csv", files / "good.csv"]
    result = recoach(
        *("ope", files / "log.csv", "--policy", *policies, "--column", "reward=click"),
        *("--output", output, "--estimators", "dr", "snips"),
    )
    assert result.code == 0, result.err
    assert "3,000 rows, mean reward 0.2" in result.out
    assert "good.csv against" in result.out
    assert result.out.count("better than the policy that wrote the log") == 1
    assert result.out.count("worse than the policy that wrote the log") == 1
    found = json.loads(output.read_text())
    good = found["policies"][str(files / "good.csv")]
    assert set(good["estimates"]) == {"logged", "dr", "snips"}
    low, high = good["estimates"]["dr"]["interval"]
    assert low < 0.41 < high
    assert good["diagnostics"]["n"] == found["decisions"] == 3000


def test_a_refusal_gives_the_reasons_and_exit_code_2(recoach, files, tmp_path):
    log = tmp_path / "log.csv"
    frame = pl.read_csv(files / "log.csv").with_columns(pl.col("propensity") / 2)
    frame.write_csv(log)
    arguments = ("ope", log, "--policy", files / "good.csv", "--column", "reward=click")
    result = recoach(*arguments, "--output", tmp_path / "out.json")
    assert result.code == 2
    assert "The mean weight is 2" in result.out
    assert f"Error: {log}: no value can be told for {files / 'good.csv'}." in result.err
    assert json.loads((tmp_path / "out.json").read_text())["policies"]
    forced = recoach(*arguments, "--force")
    assert forced.code == 0
    assert "The mean weight is 2" in forced.out
    assert "no value can be told" in forced.out


def test_estimated_propensities_are_shown_with_a_band(recoach, files):
    result = recoach(
        *("ope", files / "log.csv", "--policy", files / "good.csv", "--column", "reward=click"),
        "--estimated-propensities",
    )
    assert result.code == 0
    assert "band" in result.out
    assert "The propensities are estimates" in result.out


def test_the_log_of_the_service_is_evaluated_for_its_run(recoach, finished, tmp_path):
    snapshot, policy = read_snapshot(RunFolder(finished)), ServedPolicy(0.7)
    log, clicks = ExposureLog(tmp_path / "log"), []
    users = snapshot.dataset.user_ids.to_list()
    for number in range(150):
        user = users[number % len(users)]
        query = snapshot.build_query(
            user=user, history=None, k=2, exclude_seen=True, candidates=None
        )
        (ranking,) = snapshot.recommend(snapshot.default_model, [policy.ranked_query(query)])
        served = policy.choose(ranking, 2, str(number))
        ids = [snapshot.item_ids[item] for item in served.recommendation.items]
        about = (str(number), number, user, None, "run", "tuned", "v", policy.name)
        log.write(Exposure(*about, ids, served.recommendation.scores, served.propensities))
        clicks += [(str(number), ids[number % 2], 1.0)]
    log.close()
    names = ["impression_id", "item_id", "reward"]
    pl.DataFrame(clicks, schema=names, orient="row").write_parquet(tmp_path / "clicks.parquet")
    command = ["ope", tmp_path / "log", "--policy", finished]
    rewards = ["--rewards", tmp_path / "clicks.parquet"]
    result = recoach(*command, *rewards, "--logger", finished)
    assert result.code == 0, result.out + result.err
    assert "150 lists, mean reward 1" in result.out
    assert "mean weight 1.000 ± 0.000" in result.out
    assert "support gap 0.00%" in result.out
    top = recoach(*command, *rewards, "--depth", 1)
    assert "150 lists, mean reward 0.5" in top.out
    best = recoach(*command, *rewards, "--explore", 1e-6)
    assert best.code == 2
    assert recoach(*command).code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.csv", "--policy", "GOOD"], "there is no such file"),
        (["LOG", "--policy", "GOOD", "--estimators", "drr"], "Did you mean 'dr'?"),
        (["LOG", "--policy", "GOOD", "GOOD"], "names a policy twice"),
        (["LOG", "--policy", "GOOD", "--rewards", "GOOD"], "belongs to the log of the service"),
        (["LOG", "--policy", "none"], "none"),
        (["LOG", "--policy", "GOOD", "--column", "reward=clock"], "no column 'clock'"),
    ],
)
def test_wrong_arguments_are_refused(recoach, files, arguments, message):
    names = {"LOG": files / "log.csv", "GOOD": files / "good.csv"}
    line = [names.get(word, word) for word in arguments]
    if "--column" not in line:
        line += ["--column", "reward=click"]
    result = recoach("ope", *line)
    assert result.code == 2
    assert message in result.err
