"""Whatever is wrong: exit code 2, one sentence on stderr, nothing half-written."""

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
    "wrong separator": ("a.csv", "user_id|item_id\na|b\n", ["a.csv", "only one column"]),
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
    "unknown key": ("[grpo]\nbetta = 1\n", [], ["a.toml: grpo", "'betta'", "mean 'beta'?"]),
    "wrong type": ('[grpo]\nbeta = "much"\n', [], ["grpo.beta", "number", "'much'"]),
    "number as text": ('[pretrain]\nepochs = "5"\n', [], ["pretrain.epochs", "integer", "'5'"]),
    "true is no number": ("[pretrain]\nepochs = true\n", [], ["pretrain.epochs", "integer"]),
    "out of range": ("[grpo]\nepsilon = 2\n", [], ["grpo.epsilon", "less than 1"]),
    "at odds": ('[grpo]\nestimator = "sampled"\n', [], ["loss_type 'log'", "'exact'"]),
    "unknown table": ("[gprpo]\nbeta = 1\n", [], ["'gprpo'", "mean 'grpo'?"]),
    "no table": ("grpo = 1\n", [], ["grpo must be a table"]),
    "seed": ("seed = -1\n", [], ["seed", "-1"]),
    "seed true": ("seed = true\n", [], ["seed", "True"]),
    "finetune": ("finetune = 1\n", [], ["finetune must be true or false"]),
    "preset": ('[grpo]\npreset = "papers"\n', [], ["grpo.preset", "'papers'"]),
    "no TOML": ("[grpo\n", [], ["a.toml is not valid TOML"]),
    "unknown model": ('[model]\nname = "sasrecc"\n', [], ["'sasrecc'", "mean 'sasrec'?"]),
    "model's key": ('[model]\nname = "lightgcn"\nheads = 2\n', [], ["model", "'heads'"]),
    "set without value": ("", ["grpo.beta"], ["TABLE.KEY=VALUE", "'grpo.beta'"]),
    "set an unknown key": ("", ["grpo.betta=1"], ["--set grpo.betta=1", "mean 'beta'?"]),
    "set into a value": ("seed = 1\n", ["seed.x=1"], ["--set seed.x=1", "not a table"]),
    "set a wrong type": ("", ["pretrain.epochs=few"], ["pretrain.epochs", "'few'"]),
}


def assert_refused(said, words):
    assert said.code == 2, said
    assert said.err.startswith("Error: "), said.err
    assert said.err.count("\n") == 1, said.err
    assert len(said.err) < 500
    assert "Traceback" not in said.err + said.out
    for word in words:
        assert word in said.err


@pytest.mark.parametrize("case", LOGS)
def test_a_log_that_cannot_be_used(recoach, tmp_path, look, case):
    name, content, words = LOGS[case]
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = look.files(tmp_path)
    changes = [word.removeprefix("--set ") for word in words if word.startswith("--set")]
    words = [word for word in words if not word.startswith("--set")]
    setting = ["--set", *changes] if changes else []
    said = recoach("pretrain", file, "--output", tmp_path / "runs" / "out", *setting)
    assert_refused(said, words)
    assert look.files(tmp_path) == before
    k = changes[0].partition("=")[2] if changes else "5"
    said = recoach("data", "prepare", file, "--output", tmp_path / "out", "--k-core", k)
    assert_refused(said, words)
    assert look.files(tmp_path) == before


@pytest.mark.parametrize("case", TOMLS)
def test_settings_that_cannot_be_used(recoach, tmp_path, look, case):
    text, changes, words = TOMLS[case]
    (tmp_path / "a.toml").write_text(text)
    setting = ["--set", *changes] if changes else []
    said = recoach("run", tmp_path / "a.toml", "--output", tmp_path / "out", *setting)
    assert_refused(said, words)
    assert look.files(tmp_path) == ["a.toml"]


VERBS = {
    "no experiment": (["run", "gone.toml"], ["Cannot read gone.toml"]),
    "unknown model": (["pretrain", "log", "--output", "o", "--model", "bert4rec"], ["'bert4rec'"]),
    "finetune nothing": (["finetune", "gone"], ["gone is not a run folder"]),
    "evaluate nothing": (["evaluate", "gone"], ["gone is not a run folder"]),
    "recommend nothing": (["recommend", "gone"], ["gone is not a run folder"]),
    "report nothing": (["report", "gone"], ["results.json is missing"]),
    "bad column": (["data", "describe", "log", "--column", "user_id"], ["NAME=COLUMN"]),
    "bad core": (["data", "describe", "log", "--k-core", "-1"], ["--k-core", "-1"]),
    "search nothing": (["search", "--set", "model.name=popularity"], ["no weights"]),
    "no trials": (["search", "--trials", "0"], ["--trials must be at least 1"]),
    "search a wrong file": (["search", "gone.toml"], ["Cannot read gone.toml"]),
}


@pytest.mark.parametrize("case", VERBS)
def test_a_verb_that_has_nothing_to_work_on(recoach, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    arguments, words = VERBS[case]
    assert_refused(recoach(*arguments), words)
    assert list(tmp_path.iterdir()) == []


NOTHING = ("--set", "model={name='popularity'}")  # so that none is begun should it be accepted
VARIED = {
    "grpo.beta": ["grpo.KEY=LOW..HIGH", "'grpo.beta'"],
    "beta=1,2": ["grpo.KEY=LOW..HIGH", "'beta=1,2'"],
    "grpo.beta=": ["grpo.KEY=LOW..HIGH"],
    "pretrain.epochs=1,2": ["share one base", "only settings of grpo"],
    "grpo.betta=0,1": ["--vary grpo.betta=0,1", "mean 'beta'?"],
    "grpo.betta=0..1": ["--vary grpo.betta=0..1", "mean 'beta'?"],
    "grpo.metric=ndcg@5,ndcg@10": ["grpo.metric cannot vary", "compared by"],
    "grpo.preset=default,paper": ["grpo.preset cannot vary"],
    "grpo.beta=1": ["one value", "--set"],
    "grpo.beta=1,1": ["one value"],
    "grpo.beta=1..": ["LOW..HIGH, two numbers"],
    "grpo.beta=0..1..2": ["LOW..HIGH, two numbers"],
    "grpo.beta=low..high": ["LOW..HIGH, two numbers"],
    "grpo.beta=1..0.5": ["1 is not below 0.5"],
    "grpo.beta=0..inf": ["grpo.beta"],
    "grpo.learning_rate=0..1": ["grpo.learning_rate", "greater than 0"],
    "grpo.horizon=0.5..2": ["grpo.horizon", "integer"],
    "grpo.loss_type=log,lag": ["grpo.loss_type", "'lag'"],
    "grpo.loss_type=1..2": ["grpo.loss_type"],
    "grpo.trainable=[['item'], ['itme']]": ["grpo.trainable"],
}


@pytest.mark.parametrize("text", VARIED)
def test_what_cannot_vary_is_said_before_anything_begins(recoach, tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    assert_refused(recoach("search", *NOTHING, "--vary", text), VARIED[text])
    assert list(tmp_path.iterdir()) == []


def test_nothing_varies_twice(recoach, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vary = ("--vary", "grpo.beta=0,1", "--vary", "grpo.beta=0..1")
    said = recoach("search", *NOTHING, *vary)
    assert_refused(said, ["grpo.beta is given twice"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["bake"], ["run"], ["evaluate", "a", "--faster"], ["recommend", "a", "--k", "x"]]
)
def test_a_command_line_that_cannot_be_read(recoach, arguments):
    said = recoach(*arguments)
    assert said.code == 2
    assert "Error" in said.err
    assert "Traceback" not in said.err


# A disk that is full, or turns full between the writing and the renaming.


def refuse(*_arguments, **_options):
    raise OSError(errno.ENOSPC, "No space left on device")


def refuse_to_write(path, mode="r", *arguments, **options):
    if set(mode) & set("wax+"):
        refuse()
    return _open(path, mode, *arguments, **options)


_open = Path.open
FULL = {"replace": refuse, "open": refuse_to_write}


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
def test_a_full_disk_is_said_and_nothing_half_written(
    *, recoach, log, mine, tmp_path, look, monkeypatch, verb, method
):
    arguments = {
        "pretrain": [log, "--output", tmp_path / "new", "--model", "popularity"],
        "recommend": [mine, "--output", tmp_path / "lists.csv"],
        "finetune": [mine],
        "evaluate": [mine],
    }[verb]
    before, numbers = look.files(tmp_path), look.numbers(mine)
    with monkeypatch.context() as patch:
        patch.setattr(Path, method, FULL[method])
        said = recoach(verb, *arguments)
    assert_refused(said, ["No space left on device"])
    after = [name for name in look.files(tmp_path) if not name.startswith("new")]
    assert after == before
    assert not list(tmp_path.rglob(".*"))
    assert look.numbers(mine) == numbers
    if verb == "pretrain":
        assert recoach(verb, *arguments).code == 0


def test_a_full_disk_keeps_the_old_report(recoach, mine, look, monkeypatch):
    before, page = look.files(mine), (mine / "report.html").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        said = recoach("report", mine)
    assert_refused(said, ["report.html", "No space left on device"])
    assert look.files(mine) == before
    assert (mine / "report.html").read_text() == page


def test_a_full_disk_leaves_no_half_of_a_prepared_set(recoach, log, tmp_path, monkeypatch):
    arguments = ["data", "prepare", log, "--output", tmp_path / "out"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        said = recoach(*arguments)
    assert_refused(said, ["out", "No space left on device"])
    assert list(tmp_path.iterdir()) == []
    assert recoach(*arguments).code == 0


def test_a_damaged_checkpoint_is_named(recoach, mine):
    file = mine / "checkpoints" / "tuned" / "best.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert_refused(recoach("recommend", mine), [str(file), "cannot be read as weights"])


def test_damaged_results_are_named(recoach, mine):
    (mine / "results.json").write_text("{")
    assert_refused(recoach("report", mine), ["results.json is missing or damaged"])
