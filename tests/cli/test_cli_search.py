"""`recoach search`: one base, trials that resume, and an experiment file of the best."""

import io
import json
import subprocess
import sys
import tomllib
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console

from recoach.cli import trials
from recoach.data.dataset import RaggedArray
from recoach.experiments import stages
from recoach.experiments.config import read_config
from recoach.training.callbacks import TrainResult
from recoach.training.trainer import RLTrainer

VARY = (
    "--vary",
    "finetune.learning_rate=1e-4..1e-1",
    "finetune.loss_type=log,grpo",
    "--vary",
    "finetune.estimator=exact,sampled",
    "finetune.horizon=1..12",
    "--set",
    "finetune.num_generations=16",
    "finetune.enabled=false",
)
TRIALS = 12


def record(path):
    """Return the record of the search without durations."""
    content = json.loads((path / "trials.json").read_text())
    for trial in content["trials"]:
        trial.pop("seconds")
    content["budget"].pop("seconds")
    return content


@pytest.fixture(scope="module")
def search(recoach, toml):
    """Return a function that runs the search in a folder."""

    def call(path, trials=TRIALS, *more):
        return recoach("search", toml, "--output", path, "--trials", trials, *VARY, *more)

    return call


@pytest.fixture(scope="module")
def searched(search, tmp_path_factory):
    """Return folder and output of a finished search; tests only read them."""
    path = tmp_path_factory.mktemp("searched") / "search"
    result = search(path)
    assert result.code == 0, result
    return path, result.out


def test_a_search_writes_its_files_and_prints_the_best_trial(searched):
    path, out = searched
    names = {"base", "search.db", "trials.json", "search.html", "best.toml"}
    assert {entry.name for entry in path.iterdir()} == names
    assert "<img" in (path / "search.html").read_text()
    best = record(path)["best"]
    assert f"Trial {best} is the best of {TRIALS}" in out
    assert f"recoach run {path / 'best.toml'}" in out
    assert "│ base │" in out


def test_the_base_is_trained_once_and_not_tested(searched, run_files):
    path, out = searched
    assert out.count("Training the base") == 1
    assert {row["stage"] for row in run_files.metrics(path / "base")} == {"base"}
    assert not (path / "base" / "results.json").exists()


def test_the_first_trial_uses_the_settings_of_the_experiment(searched):
    first = record(searched[0])["trials"][0]["settings"]
    expected = {"learning_rate": 2e-3, "loss_type": "log", "estimator": "exact", "horizon": 10}
    assert first == expected


def test_incompatible_settings_are_pruned_with_a_reason(searched):
    pruned = 0
    for trial in record(searched[0])["trials"]:
        settings = trial["settings"]
        if settings["estimator"] == "sampled" and settings["loss_type"] == "log":
            assert trial["value"] is None
            assert "loss_type 'log' needs estimator 'exact'" in trial["pruned"]
            pruned += 1
        else:
            assert trial["value"] is not None or "below the median" in trial["pruned"]
    assert 0 < pruned < TRIALS


def test_the_best_trial_is_reproduced_by_its_experiment_file(
    searched, recoach, tmp_path, run_files
):
    path, trial_record = searched[0], record(searched[0])
    best = trial_record["trials"][trial_record["best"] - 1]
    values = [trial["value"] for trial in trial_record["trials"] if trial["value"] is not None]
    assert best["value"] == max(values) > trial_record["base"]
    config = read_config(path / "best.toml")
    assert {name: getattr(config.finetune, name) for name in best["settings"]} == best["settings"]
    result = recoach("run", path / "best.toml", "--output", tmp_path / "run")
    assert result.code == 0, result
    models = run_files.results(tmp_path / "run")["models"]
    assert models["tuned"]["valid"]["ndcg@10"] == pytest.approx(best["value"], abs=1e-6)
    assert models["base"]["valid"]["ndcg@10"] == pytest.approx(trial_record["base"], abs=1e-6)


def test_a_finished_search_is_only_printed_and_trials_can_be_added(search, searched, tmp_path):
    path, trials_of_search = tmp_path / "search", record(searched[0])["trials"]
    assert search(path, 3).code == 0
    assert record(path)["trials"] == trials_of_search[:3]
    weights = path / "base" / "checkpoints" / "base" / "best.safetensors"
    before = weights.stat().st_mtime_ns
    result = search(path, 2)
    assert result.code == 0
    assert "trial 4" not in result.out
    assert record(path)["trials"] == trials_of_search[:3]
    result = search(path, 4)
    assert "3 of 4 trials are finished" in result.out
    assert record(path)["trials"] == trials_of_search[:4]
    assert weights.stat().st_mtime_ns == before


def test_an_interrupted_search_resumes_and_gives_the_same_trials(
    search, searched, toml, tmp_path, monkeypatch
):
    step, path = RLTrainer.step, tmp_path / "search"
    for stop in (1, 60, 3):
        count = []

        def interrupted(self, batch, generator, count=count, stop=stop):
            count.append(1)
            if len(count) == stop:
                raise KeyboardInterrupt
            return step(self, batch, generator)

        with monkeypatch.context() as patch:
            patch.setattr(RLTrainer, "step", interrupted)
            result = search(path)
        assert result.code == 130
        assert f"Continue with: recoach search {toml} --output {path}" in result.err
        assert not (path / "trials.json").exists()
    assert search(path).code == 0
    assert record(path) == record(searched[0])
    assert (path / "best.toml").read_text() == (searched[0] / "best.toml").read_text()


def test_a_search_does_not_depend_on_the_test_items(search, searched, tmp_path, monkeypatch):
    def shuffled(*arguments, **options):
        dataset = original(*arguments, **options)
        test = RaggedArray(dataset.test.offsets, 39 - dataset.test.values)
        return replace(dataset, test=test)

    original = stages.run_dataset
    monkeypatch.setattr(stages, "run_dataset", shuffled)
    assert search(tmp_path / "search", 4).code == 0
    trial_record = record(tmp_path / "search")
    assert trial_record["base"] == record(searched[0])["base"]
    assert trial_record["trials"] == record(searched[0])["trials"][:4]


def test_a_search_without_improvement_says_so(recoach, toml, tmp_path):
    vary = ("--vary", "finetune.learning_rate=1e-12..1e-11")
    result = recoach("search", toml, "--output", tmp_path / "s", "--trials", 2, *vary)
    assert result.code == 0
    assert "No trial beats the base: the best of 2 has NDCG@10" in result.out
    assert "recoach run" not in result.out
    assert record(tmp_path / "s")["best"] is None
    assert not (tmp_path / "s" / "best.toml").exists()
    base_config = tomllib.loads((tmp_path / "s" / "base" / "config.toml").read_text())
    assert base_config["finetune"]["enabled"] is False


def test_a_search_with_only_pruned_trials_gives_the_reason(recoach, toml, tmp_path):
    vary = ("--vary", "finetune.pass_k=1,2", "--set", "finetune.trainable=['user']")
    result = recoach("search", toml, "--output", tmp_path / "s", "--trials", 2, *vary)
    assert result.code == 0
    assert "None of 2 trials was completed" in result.out
    assert "names no table of this model" in result.out


def test_diverging_and_lagging_trials_are_pruned(recoach, toml, tmp_path, monkeypatch):
    def step(self, batch, generator):
        if self.args.pass_k == 3:
            return {"loss": float("nan")}
        if self.args.pass_k == 2:
            return {"loss": 0.0}
        return original(self, batch, generator)

    original = RLTrainer.step
    monkeypatch.setattr(RLTrainer, "step", step)
    vary = ("--vary", "finetune.pass_k=1,2,3,4,5,10", "finetune.learning_rate=1e-3..2e-3")
    result = recoach("search", toml, "--output", tmp_path / "s", "--trials", 20, *vary)
    assert result.code == 0, result
    reasons = {k: set() for k in (1, 2, 3, 4, 5, 10)}
    for trial in record(tmp_path / "s")["trials"]:
        reasons[trial["settings"]["pass_k"]].add(str(trial["pruned"]).partition(" at ")[0])
        assert (trial["value"] is None) is (trial["pruned"] is not None)
    assert reasons[3] == {"The loss is nan"}
    assert "below the median" in reasons[2]
    assert "None" in reasons[10]
    importance = record(tmp_path / "s")["importance"]
    assert set(importance) == {"pass_k", "learning_rate"}
    assert sum(importance.values()) == pytest.approx(1)


def test_select_last_evaluates_the_last_weights(recoach, toml, tmp_path):
    vary = ("--vary", "finetune.learning_rate=0.5,1.0", "--set", "finetune.select=last")
    result = recoach("search", toml, "--output", tmp_path / "s", "--trials", 1, *vary)
    assert result.code == 0, result
    trial_record = record(tmp_path / "s")
    assert trial_record["trials"][0]["value"] < trial_record["base"]
    assert "No trial beats the base" in result.out


def test_another_search_in_the_same_folder_is_refused(search, recoach, toml, tmp_path, run_files):
    path = tmp_path / "search"
    assert search(path, 1).code == 0
    before = run_files.files(path)
    result = recoach("search", toml, "--output", path, "--vary", "finetune.beta=0,1")
    assert result.code == 2
    assert "another finetune.num_generations" in result.err
    result = search(path, 2, "--vary", "finetune.beta=0,1")
    assert result.code == 2
    assert "with another range of finetune.beta" in result.err
    result = search(path, 2, "--set", "pretrain.epochs=9")
    assert result.code == 2
    assert "another pretrain.epochs (stored: 3, requested: 9)" in result.err
    assert run_files.files(path) == before
    assert len(record(path)["trials"]) == 1


def test_other_folders_and_files_are_left_alone(search, tmp_path, run_files):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"miaow")
    (tmp_path / "taken").write_text("mine")
    before = run_files.files(tmp_path)
    for name, word in {"photos": "something else than a search", "taken": "is a file"}.items():
        result = search(tmp_path / name)
        assert result.code == 2
        assert word in result.err
    assert run_files.files(tmp_path) == before


def test_a_damaged_study_is_named(search, tmp_path):
    path = tmp_path / "search"
    path.mkdir()
    (path / "search.db").write_bytes(b"no database at all, but long enough to look at" * 100)
    result = search(path)
    assert result.code == 2
    assert f"{path / 'search.db'} cannot be used as a study: " in result.err
    assert "Traceback" not in result.err


def test_a_second_search_in_the_same_folder_stops_the_first(search, tmp_path, monkeypatch):
    def step(self, batch, generator):
        storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'search' / 'search.db'}")
        study = optuna.load_study(study_name="grpo", storage=storage)
        if study.trials[-1].state == TrialState.RUNNING:
            study.tell(study.trials[-1].number, state=TrialState.FAIL)
        storage.engine.dispose()
        return original(self, batch, generator)

    original = RLTrainer.step
    monkeypatch.setattr(RLTrainer, "step", step)
    result = search(tmp_path / "search", 1)
    assert result.code == 2
    assert "If another search uses it, wait" in result.err


@pytest.mark.parametrize(
    ("verb", "code", "word"), [("search", 2, "pip install 'recoach[tune]'"), ("--help", 0, "")]
)
def test_without_optuna_the_search_names_the_extra(tmp_path, verb, code, word):
    program = "import sys; sys.modules['optuna'] = None; from recoach.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, verb],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_search_killed_before_its_first_trial_tries_the_current_settings_once(
    search, searched, tmp_path, monkeypatch
):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "ask", killed)
        assert search(tmp_path / "search", 2).code == 130
    assert search(tmp_path / "search", 2).code == 0
    assert record(tmp_path / "search")["trials"] == record(searched[0])["trials"][:2]


def test_the_progress_bar_stops_between_trials(monkeypatch):
    monkeypatch.setattr(trials, "console", Console(file=io.StringIO(), force_terminal=True))
    progress = trials._TrialProgress(2)
    try:
        for number in (1, 2):
            progress.on_begin(3, 0)
            assert progress._progress.live.is_started
            trial = {"trial": number, "value": None, "pruned": "behind", "settings": {}}
            progress.on_trial(trial, 0.1)
            assert not progress._progress.live.is_started
    finally:
        progress.on_end(TrainResult(3, 0.0, 0, 0.0, None))
        progress.stop()
