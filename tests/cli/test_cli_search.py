"""`recoach search`: one base, trials that go on, an experiment to run at the end."""

import io
import json
import subprocess
import sys
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console

from recoach.cli import trials
from recoach.data.split import RaggedArray
from recoach.experiments import stages
from recoach.experiments.config import read_config
from recoach.training.callbacks import TrainResult
from recoach.training.trainer import GRPOTrainer

VARY = (
    "--vary",
    "grpo.learning_rate=1e-4..1e-1",
    "grpo.loss_type=log,grpo",
    "--vary",
    "grpo.estimator=exact,sampled",
    "grpo.horizon=1..12",
    "--set",
    "grpo.num_generations=16",
    "finetune=false",
)
TRIALS = 12


def record(path):
    """Return what the trials came to, without their seconds."""
    found = json.loads((path / "trials.json").read_text())
    for trial in found["trials"]:
        trial.pop("seconds")
    return found


@pytest.fixture(scope="module")
def search(recoach, toml):
    """Return a function that searches in a folder."""

    def call(path, trials=TRIALS, *more):
        return recoach("search", toml, "--output", path, "--trials", trials, *VARY, *more)

    return call


@pytest.fixture(scope="module")
def searched(search, tmp_path_factory):
    """Return the folder of a whole search and what was said; only to be read."""
    path = tmp_path_factory.mktemp("searched") / "search"
    said = search(path)
    assert said.code == 0, said
    return path, said.out


def test_a_search_ends_in_something_to_look_at(searched):
    path, out = searched
    names = {"base", "search.db", "trials.json", "search.html", "best.toml"}
    assert {entry.name for entry in path.iterdir()} == names
    assert "<img" in (path / "search.html").read_text()
    best = record(path)["best"]
    assert f"Trial {best} is the best of {TRIALS}" in out
    assert f"recoach run {path / 'best.toml'}" in out
    assert "│ base │" in out


def test_the_base_is_trained_once_and_nothing_is_tested(searched, look):
    path, out = searched
    assert out.count("Training the base") == 1
    assert {row["stage"] for row in look.metrics(path / "base")} == {"base"}
    assert not (path / "base" / "results.json").exists()


def test_the_first_trial_is_of_the_settings_as_they_are(searched):
    first = record(searched[0])["trials"][0]["settings"]
    expected = {"learning_rate": 2e-3, "loss_type": "log", "estimator": "exact", "horizon": 10}
    assert first == expected


def test_settings_at_odds_are_pruned_and_say_why(searched):
    pruned = 0
    for trial in record(searched[0])["trials"]:
        drawn = trial["settings"]
        if drawn["estimator"] == "sampled" and drawn["loss_type"] == "log":
            assert trial["value"] is None
            assert "loss_type 'log' needs estimator 'exact'" in trial["pruned"]
            pruned += 1
        else:
            assert trial["value"] is not None or "below the median" in trial["pruned"]
    assert 0 < pruned < TRIALS


def test_the_best_trial_is_an_experiment_that_repeats_its_value(searched, recoach, tmp_path, look):
    path, found = searched[0], record(searched[0])
    best = found["trials"][found["best"] - 1]
    values = [trial["value"] for trial in found["trials"] if trial["value"] is not None]
    assert best["value"] == max(values) > found["base"]
    config = read_config(path / "best.toml")
    assert {name: getattr(config.grpo, name) for name in best["settings"]} == best["settings"]
    said = recoach("run", path / "best.toml", "--output", tmp_path / "run")
    assert said.code == 0, said
    models = look.results(tmp_path / "run")["models"]
    assert models["tuned"]["valid"]["ndcg@10"] == pytest.approx(best["value"], abs=1e-6)
    assert models["base"]["valid"]["ndcg@10"] == pytest.approx(found["base"], abs=1e-6)


def test_a_finished_search_is_only_shown_and_more_trials_are_added(search, searched, tmp_path):
    path, whole = tmp_path / "search", record(searched[0])["trials"]
    assert search(path, 3).code == 0
    assert record(path)["trials"] == whole[:3]
    weights = path / "base" / "checkpoints" / "base" / "best.safetensors"
    before = weights.stat().st_mtime_ns
    said = search(path, 2)
    assert said.code == 0
    assert "trial 4" not in said.out
    assert record(path)["trials"] == whole[:3]
    said = search(path, 4)
    assert "3 of 4 trials are finished" in said.out
    assert record(path)["trials"] == whole[:4]
    assert weights.stat().st_mtime_ns == before


def test_an_interrupted_search_goes_on_and_ends_where_the_whole_one_does(
    search, searched, toml, tmp_path, monkeypatch
):
    step, path = GRPOTrainer.step, tmp_path / "search"
    for stop in (1, 60, 3):
        count = []

        def interrupted(self, batch, generator, count=count, stop=stop):
            count.append(1)
            if len(count) == stop:
                raise KeyboardInterrupt
            return step(self, batch, generator)

        with monkeypatch.context() as patch:
            patch.setattr(GRPOTrainer, "step", interrupted)
            said = search(path)
        assert said.code == 130
        assert f"Continue with: recoach search {toml} --output {path}" in said.err
        assert not (path / "trials.json").exists()
    assert search(path).code == 0
    assert record(path) == record(searched[0])
    assert (path / "best.toml").read_text() == (searched[0] / "best.toml").read_text()


def test_the_test_items_change_nothing(search, searched, tmp_path, monkeypatch):
    def shuffled(*arguments, **options):
        dataset = plain(*arguments, **options)
        test = RaggedArray(39 - dataset.test.values, dataset.test.offsets)
        return replace(dataset, test=test)

    plain = stages.run_dataset
    monkeypatch.setattr(stages, "run_dataset", shuffled)
    assert search(tmp_path / "search", 4).code == 0
    found = record(tmp_path / "search")
    assert found["base"] == record(searched[0])["base"]
    assert found["trials"] == record(searched[0])["trials"][:4]


def test_where_no_trial_beats_the_base_it_is_said(recoach, toml, tmp_path):
    vary = ("--vary", "grpo.learning_rate=1e-12..1e-11")
    said = recoach("search", toml, "--output", tmp_path / "s", "--trials", 2, *vary)
    assert said.code == 0
    assert "No trial beats the base: the best of 2 has NDCG@10" in said.out
    assert "recoach run" not in said.out
    assert record(tmp_path / "s")["best"] is None
    assert not (tmp_path / "s" / "best.toml").exists()
    assert "finetune = false" in (tmp_path / "s" / "base" / "config.toml").read_text()


def test_where_no_trial_comes_to_its_end_the_reason_is_said(recoach, toml, tmp_path):
    vary = ("--vary", "grpo.pass_k=1,2", "--set", "grpo.trainable=['user']")
    said = recoach("search", toml, "--output", tmp_path / "s", "--trials", 2, *vary)
    assert said.code == 0
    assert "None of 2 trials was completed" in said.out
    assert "names no table of this model" in said.out


def test_a_trial_that_diverges_is_pruned_and_one_that_lags_is_stopped(
    recoach, toml, tmp_path, monkeypatch
):
    def step(self, batch, generator):
        if self.args.pass_k == 3:
            return {"loss": float("nan")}
        if self.args.pass_k == 2:
            return {"loss": 0.0}
        return plain(self, batch, generator)

    plain = GRPOTrainer.step
    monkeypatch.setattr(GRPOTrainer, "step", step)
    vary = ("--vary", "grpo.pass_k=1,2,3,4,5,10", "grpo.learning_rate=1e-3..2e-3")
    said = recoach("search", toml, "--output", tmp_path / "s", "--trials", 20, *vary)
    assert said.code == 0, said
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


def test_the_last_weights_are_what_counts_where_they_are_chosen(recoach, toml, tmp_path):
    vary = ("--vary", "grpo.learning_rate=0.5,1.0", "--set", "grpo.select=last")
    said = recoach("search", toml, "--output", tmp_path / "s", "--trials", 1, *vary)
    assert said.code == 0, said
    found = record(tmp_path / "s")
    assert found["trials"][0]["value"] < found["base"]
    assert "No trial beats the base" in said.out


def test_another_search_in_the_same_folder_is_refused(search, recoach, toml, tmp_path, look):
    path = tmp_path / "search"
    assert search(path, 1).code == 0
    before = look.files(path)
    said = recoach("search", toml, "--output", path, "--vary", "grpo.beta=0,1")
    assert said.code == 2
    assert "another grpo.num_generations" in said.err
    said = search(path, 2, "--vary", "grpo.beta=0,1")
    assert said.code == 2
    assert "with another range of grpo.beta" in said.err
    said = search(path, 2, "--set", "pretrain.epochs=9")
    assert said.code == 2
    assert "another pretrain.epochs (stored: 3, requested: 9)" in said.err
    assert look.files(path) == before
    assert len(record(path)["trials"]) == 1


def test_a_foreign_folder_and_a_file_are_left_alone(search, tmp_path, look):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"miaow")
    (tmp_path / "taken").write_text("mine")
    before = look.files(tmp_path)
    for name, word in {"photos": "something else than a search", "taken": "is a file"}.items():
        said = search(tmp_path / name)
        assert said.code == 2
        assert word in said.err
    assert look.files(tmp_path) == before


def test_a_damaged_study_is_named(search, tmp_path):
    path = tmp_path / "search"
    path.mkdir()
    (path / "search.db").write_bytes(b"no database at all, but long enough to look at" * 100)
    said = search(path)
    assert said.code == 2
    assert f"{path / 'search.db'} cannot be used as a study: " in said.err
    assert "Traceback" not in said.err


def test_a_second_search_in_the_same_folder_ends_the_first(search, tmp_path, monkeypatch):
    def step(self, batch, generator):
        storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'search' / 'search.db'}")
        study = optuna.load_study(study_name="grpo", storage=storage)
        if study.trials[-1].state == TrialState.RUNNING:
            study.tell(study.trials[-1].number, state=TrialState.FAIL)
        storage.engine.dispose()
        return plain(self, batch, generator)

    plain = GRPOTrainer.step
    monkeypatch.setattr(GRPOTrainer, "step", step)
    said = search(tmp_path / "search", 1)
    assert said.code == 2
    assert "If another search uses it, wait" in said.err


@pytest.mark.parametrize(
    ("verb", "code", "word"), [("search", 2, "pip install 'recoach[tune]'"), ("--help", 0, "")]
)
def test_without_optuna_it_says_what_to_install(tmp_path, verb, code, word):
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


def test_a_search_killed_before_its_first_trial_tries_the_present_settings_once(
    search, searched, tmp_path, monkeypatch
):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "ask", killed)
        assert search(tmp_path / "search", 2).code == 130
    assert search(tmp_path / "search", 2).code == 0
    assert record(tmp_path / "search")["trials"] == record(searched[0])["trials"][:2]


def test_between_trials_the_screen_is_free_for_the_bases_of_a_reward(monkeypatch):
    monkeypatch.setattr(trials, "console", Console(file=io.StringIO(), force_terminal=True))
    shown = trials._TrialProgress(2)
    try:
        for number in (1, 2):
            shown.on_begin(3, 0)
            assert shown._progress.live.is_started
            trial = {"trial": number, "value": None, "pruned": "behind", "settings": {}}
            shown.on_trial(trial, 0.1)
            assert not shown._progress.live.is_started
    finally:
        shown.on_end(TrainResult(3, 0.0, 0, 0.0, None))
        shown.stop()
