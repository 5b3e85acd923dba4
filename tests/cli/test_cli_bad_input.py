"""Invalid input: exit code 2, one line on stderr, no partial files."""

import errno
import gzip
from pathlib import Path

import pytest

HEAD = "user_id,item_id,timestamp\n"
ROWS = "".join(f"u{user},i{item},{item}\n" for user in range(8) for item in range(8))
PAIRS = HEAD + "".join(f"u{user},i{item},{item}\n" for user in range(9) for item in range(2))
MIXED = '{"user":1,"item":2}\n{"user":"1","item":2}\n'
TRUNCATED = gzip.compress((HEAD + ROWS).encode())[:-30]

LOGS = {
    "missing file": ("gone.csv", None, ["no such file", "gone.csv"]),
    "missing column": ("a.csv", "user_id,what\na,b\n", ["a.csv", "no item_id column", "what"]),
    "empty file": ("a.csv", "", ["a.csv: the file is empty"]),
    "wrong separator": ("a.csv", "user_id/item_id\na/b\n", ["a.csv", "only one column"]),
    "time stamp": ("a.csv", HEAD + ROWS + "u,i,soon\n", ["a.csv:66", "'soon'"]),
    "mixed ids": ("a.jsonl", MIXED, ["a.jsonl:2", "'1'"]),
    "duplicate header": (
        "a.csv",
        "user_id,item_id,user_id\n1,2,3\n",
        ["a.csv:1", "'user_id' occurs twice"],
    ),
    "truncated gzip": ("a.csv.gz", TRUNCATED, ["a.csv.gz: cannot be read"]),
    "empty core": ("a.csv", HEAD + ROWS, ["core", "--set data.k_core=9"]),
    "short histories": ("a.csv", PAIRS, ["too little history", "--set data.k_core=0"]),
}

TOMLS = {
    "unknown key": ("[finetune]\nbetta = 1\n", [], ["a.toml: finetune", "'betta'", "mean 'beta'?"]),
    "wrong type": ('[finetune]\nbeta = "much"\n', [], ["finetune.beta", "number", "'much'"]),
    "number as text": ('[pretrain]\nepochs = "5"\n', [], ["pretrain.epochs", "integer", "'5'"]),
    "true is no number": ("[pretrain]\nepochs = true\n", [], ["pretrain.epochs", "integer"]),
    "out of range": ("[finetune]\nepsilon = 2\n", [], ["finetune.epsilon", "less than 1"]),
    "at odds": ('[finetune]\nestimator = "sampled"\n', [], ["loss_type 'log'", "'exact'"]),
    "unknown table": ("[fintune]\nbeta = 1\n", [], ["'fintune'", "mean 'finetune'?"]),
    "no table": ("finetune = 1\n", [], ["finetune must be a table"]),
    "seed": ("seed = -1\n", [], ["seed", "-1"]),
    "seed true": ("seed = true\n", [], ["seed", "True"]),
    "finetune": ("[finetune]\nenabled = 1\n", [], ["finetune.enabled must be true or false"]),
    "preset": ('[finetune]\npreset = "papers"\n', [], ["finetune.preset", "'papers'"]),
    "no TOML": ("[finetune\n", [], ["a.toml is not valid TOML"]),
    "unknown model": ('[model]\nname = "sasrecc"\n', [], ["'sasrecc'", "mean 'sasrec'?"]),
    "model's key": ('[model]\nname = "lightgcn"\nheads = 2\n', [], ["model", "'heads'"]),
    "set without value": ("", ["finetune.beta"], ["TABLE.KEY=VALUE", "'finetune.beta'"]),
    "set an unknown key": ("", ["finetune.betta=1"], ["--set finetune.betta=1", "mean 'beta'?"]),
    "set into a value": ("seed = 1\n", ["seed.x=1"], ["--set seed.x=1", "not a table"]),
    "set a wrong type": ("", ["pretrain.epochs=few"], ["pretrain.epochs", "'few'"]),
}


def assert_refused(result, words):
    assert result.code == 2, result
    assert result.err.startswith("Error: "), result.err
    assert result.err.count("\n") == 1, result.err
    assert len(result.err) < 500
    assert "Traceback" not in result.err + result.out
    for word in words:
        assert word in result.err


@pytest.mark.parametrize("case", LOGS)
def test_an_invalid_log_is_refused(recoach, tmp_path, run_files, case):
    name, content, words = LOGS[case]
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = run_files.files(tmp_path)
    changes = [word.removeprefix("--set ") for word in words if word.startswith("--set")]
    words = [word for word in words if not word.startswith("--set")]
    setting = ["--set", *changes] if changes else []
    result = recoach("pretrain", file, "--output", tmp_path / "runs" / "out", *setting)
    assert_refused(result, words)
    assert run_files.files(tmp_path) == before
    k = changes[0].partition("=")[2] if changes else "5"
    result = recoach("data", "prepare", file, "--output", tmp_path / "out", "--k-core", k)
    assert_refused(result, words)
    assert run_files.files(tmp_path) == before


@pytest.mark.parametrize("case", TOMLS)
def test_invalid_settings_are_refused(recoach, tmp_path, run_files, case):
    text, changes, words = TOMLS[case]
    (tmp_path / "a.toml").write_text(text)
    setting = ["--set", *changes] if changes else []
    result = recoach("run", tmp_path / "a.toml", "--output", tmp_path / "out", *setting)
    assert_refused(result, words)
    assert run_files.files(tmp_path) == ["a.toml"]


VERBS = {
    "no experiment": (["run", "gone.toml"], ["Cannot read gone.toml"]),
    "unknown model": (["pretrain", "log", "--output", "o", "--model", "bert4rec"], ["'bert4rec'"]),
    "finetune nothing": (["finetune", "gone"], ["gone is not a run folder"]),
    "compare nothing": (["compare", "gone", "nope"], ["gone: there is no such file or folder"]),
    "evaluate nothing": (["evaluate", "gone"], ["gone is not a run folder"]),
    "recommend nothing": (["recommend", "gone"], ["gone is not a run folder"]),
    "report nothing": (["report", "gone"], ["gone: there is no such file"]),
    "bad column": (["data", "describe", "log", "--column", "user_id"], ["NAME=COLUMN"]),
    "bad core": (["data", "describe", "log", "--k-core", "-1"], ["--k-core", "-1"]),
    "search nothing": (["search", "--set", "model.name=popularity"], ["no weights"]),
    "no trials": (["search", "--trials", "0"], ["--trials must be at least 1"]),
    "search a wrong file": (["search", "gone.toml"], ["Cannot read gone.toml"]),
}


@pytest.mark.parametrize("case", VERBS)
def test_a_command_without_valid_input_is_refused(recoach, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    arguments, words = VERBS[case]
    assert_refused(recoach(*arguments), words)
    assert list(tmp_path.iterdir()) == []


SWAPPED = {
    "run a log": (
        ["run", "b.csv"],
        ["b.csv: this is a log", "recoach demo --data b.csv", "recoach pretrain b.csv"],
    ),
    "describe settings": (
        ["data", "describe", "b.toml"],
        ["b.toml: this is a configuration, not a log", "recoach run b.toml"],
    ),
    "pretrain on settings": (
        ["pretrain", "b.toml", "--output", "a"],
        ["b.toml: this is a configuration, not a log", "recoach run"],
    ),
    "a missing policy": (
        ["ope", "ope.csv", "--policy", "nofile.csv"],
        ["nofile.csv: there is no such file or run folder"],
    ),
}


@pytest.mark.parametrize("case", SWAPPED)
def test_a_file_of_the_wrong_kind_is_told_and_the_right_command_named(
    recoach, tmp_path, monkeypatch, case
):
    monkeypatch.chdir(tmp_path)
    Path("b.csv").write_text(HEAD + ROWS)
    Path("b.toml").write_text('[data]\npath = "b.csv"\n')
    Path("ope.csv").write_text("user_id,item_id,reward,propensity\nu,i,1,0.5\nu,j,0,0.5\n")
    arguments, words = SWAPPED[case]
    assert_refused(recoach(*arguments), words)


NO_TRAINING = ("--set", "model={name='popularity'}")  # if the space is accepted, nothing trains
VARIED = {
    "finetune.beta": ["finetune.KEY=LOW..HIGH", "'finetune.beta'"],
    "beta=1,2": ["finetune.KEY=LOW..HIGH", "'beta=1,2'"],
    "finetune.beta=": ["finetune.KEY=LOW..HIGH"],
    "pretrain.epochs=1,2": ["share one base", "only settings of finetune"],
    "finetune.betta=0,1": ["--vary finetune.betta=0,1", "mean 'beta'?"],
    "finetune.betta=0..1": ["--vary finetune.betta=0..1", "mean 'beta'?"],
    "finetune.metric=ndcg@5,ndcg@10": ["finetune.metric cannot vary", "compared by"],
    "finetune.preset=default,paper": ["finetune.preset cannot vary"],
    "finetune.beta=1": ["one value", "--set"],
    "finetune.beta=1,1": ["one value"],
    "finetune.beta=1..": ["LOW..HIGH, two numbers"],
    "finetune.beta=0..1..2": ["LOW..HIGH, two numbers"],
    "finetune.beta=low..high": ["LOW..HIGH, two numbers"],
    "finetune.beta=1..0.5": ["1 is not below 0.5"],
    "finetune.beta=0..inf": ["finetune.beta"],
    "finetune.learning_rate=0..1": ["finetune.learning_rate", "greater than 0"],
    "finetune.horizon=0.5..2": ["finetune.horizon", "integer"],
    "finetune.loss_type=log,lag": ["finetune.loss_type", "'lag'"],
    "finetune.loss_type=1..2": ["finetune.loss_type"],
    "finetune.trainable=[['item'], ['itme']]": ["finetune.trainable"],
}


@pytest.mark.parametrize("text", VARIED)
def test_an_invalid_search_space_is_refused_before_the_search(recoach, tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    assert_refused(recoach("search", *NO_TRAINING, "--vary", text), VARIED[text])
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_varies_twice_is_refused(recoach, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vary = ("--vary", "finetune.beta=0,1", "--vary", "finetune.beta=0..1")
    result = recoach("search", *NO_TRAINING, *vary)
    assert_refused(result, ["finetune.beta is given twice"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["bake"], ["run"], ["evaluate", "a", "--faster"], ["recommend", "a", "--k", "x"]]
)
def test_an_invalid_command_line_is_refused(recoach, arguments):
    result = recoach(*arguments)
    assert result.code == 2
    assert "Error" in result.err
    assert "Traceback" not in result.err


# A disk that is full before the file is written, or before it is renamed.


def fail(*_arguments, **_options):
    raise OSError(errno.ENOSPC, "No space left on device")


def fail_to_write(path, mode="r", *arguments, **options):
    if set(mode) & set("wax+"):
        fail()
    return _open(path, mode, *arguments, **options)


_open = Path.open
FULL = {"replace": fail, "open": fail_to_write}


@pytest.mark.parametrize(
    ("verb", "method"),
    [
        ("pretrain", "replace"),
        ("pretrain", "open"),
        ("recommend", "replace"),
        ("recommend", "open"),
        ("finetune", "replace"),
        ("evaluate", "replace"),
    ],
)
def test_a_full_disk_is_reported_and_leaves_no_partial_files(
    *, recoach, log, run_copy, tmp_path, run_files, monkeypatch, verb, method
):
    arguments = {
        "pretrain": [log, "--output", tmp_path / "new", "--model", "popularity"],
        "recommend": [run_copy, "--output", tmp_path / "lists.csv"],
        "finetune": [run_copy],
        "evaluate": [run_copy],
    }[verb]
    before, numbers = run_files.files(tmp_path), run_files.numbers(run_copy)
    with monkeypatch.context() as patch:
        patch.setattr(Path, method, FULL[method])
        result = recoach(verb, *arguments)
    assert_refused(result, ["No space left on device"])
    after = [name for name in run_files.files(tmp_path) if not name.startswith("new")]
    assert after == before
    assert not list(tmp_path.rglob(".*"))
    assert run_files.numbers(run_copy) == numbers
    if verb == "pretrain":
        assert recoach(verb, *arguments).code == 0


def test_a_full_disk_keeps_the_old_report(recoach, run_copy, run_files, monkeypatch):
    before, page = run_files.files(run_copy), (run_copy / "report.html").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        result = recoach("report", run_copy)
    assert_refused(result, ["report.html", "No space left on device"])
    assert run_files.files(run_copy) == before
    assert (run_copy / "report.html").read_text() == page


def test_a_full_disk_leaves_no_partial_dataset_folder(recoach, log, tmp_path, monkeypatch):
    arguments = ["data", "prepare", log, "--output", tmp_path / "out"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        result = recoach(*arguments)
    assert_refused(result, ["out", "No space left on device"])
    assert list(tmp_path.iterdir()) == []
    assert recoach(*arguments).code == 0


def test_a_damaged_checkpoint_is_named(recoach, run_copy):
    file = run_copy / "checkpoints" / "tuned" / "best.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    result = recoach("recommend", run_copy, "--stage", "tuned")
    assert_refused(result, [str(file), "cannot be read as weights"])


def test_damaged_results_are_named(recoach, run_copy):
    (run_copy / "results.json").write_text("{")
    assert_refused(recoach("report", run_copy), ["results.json is missing or damaged"])
