"""The commands of the quick start and of the command-line reference run on a tiny log."""

import shutil

import polars as pl
import pytest

import recoach
from pages import ROOT, commands
from recoach.cli import runs
from recoach.cli.main import app

PAGES = [
    ROOT / "docs" / "tutorials" / "quick-start.md",
    *sorted((ROOT / "docs" / "reference" / "cli").glob("*.md")),
]
RUN = {
    "compare",
    "convert-config",
    "data audit",
    "data describe",
    "data prepare",
    "doctor",
    "evaluate",
}
RUN |= {"finetune", "pretrain", "recommend", "report", "rerank", "run"}
# Tested elsewhere: demo (tests/cli/test_cli_verbs.py), import, export (test_cli_recbole.py),
# search, front (test_cli_front.py), reproduce, serve (tests/serving); data fetch needs a network.
TRAINS = {
    "finetune": ["finetune.max_steps=2"],
    "pretrain": ["pretrain.max_steps=2", "model.dim=8"],
    "run": ["pretrain.max_steps=2", "model.dim=8", "finetune.max_steps=2"],
}
MINE = '[data]\npath = "log.csv"\nitems = "items.csv"\n'
YAML = "model: SASRec\nhidden_size: 32\nepochs: 5\n"


def call(*line):
    """Run a command in this process, training for a few steps only."""
    line = [*line]
    if line[0] in TRAINS:
        line += ["--set", *TRAINS[line[0]]]
    with pytest.MonkeyPatch.context() as patch:
        if line[0] != "report":  # a report takes a second; those of one command are enough
            patch.setattr(runs, "write_report", lambda path: path / "report.html")
        app(line, exit_on_error=False, print_error=False, result_action="return_value")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder with the files that the pages mention."""
    path = tmp_path_factory.mktemp("files")
    shop = recoach.shop(n_users=60, n_items=40, seed=3)
    log = shop.interactions
    columns = {
        "user_id": log.user_ids.gather(log.users),
        "item_id": log.item_ids.gather(log.items),
        "timestamp": log.times // 1000,
    }
    rows = pl.DataFrame(columns)
    rows.write_csv(path / "log.csv")
    rows.head(20).with_columns(user_id=pl.lit("new user")).write_csv(path / "new.csv")
    titles = pl.DataFrame({"item_id": log.item_ids, "title": shop.item_titles})
    titles.write_csv(path / "items.csv")
    (path / "my.toml").write_text(MINE)
    (path / "recbole.yaml").write_text(YAML)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        call("data", "prepare", "log.csv", "--output", "prepared/log")
        call("run", "my.toml", "--output", "runs/mine")
        call("pretrain", "log.csv", "--output", "runs/base")
        call("pretrain", "log.csv", "--output", "runs/light", "--model", "lightgcn")
    shutil.copytree(path / "runs/mine", path / "runs/first")
    shutil.copytree(path / "runs/base", path / "runs/imported")
    return path


def command_of(line):
    return " ".join(line[:2]) if line[0] == "data" else line[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_in_order(page, files, tmp_path, monkeypatch):
    here = shutil.copytree(files, tmp_path / "here")
    monkeypatch.chdir(here)
    lines = [line for line in commands(page, in_sentences=False) if command_of(line) in RUN]
    for line in lines:
        if line[0] in ("run", "pretrain"):
            at = line[line.index("--output") + 1] if "--output" in line else "runs/my"
            shutil.rmtree(here / at, ignore_errors=True)
        call(*line)
    for line in lines:
        if "--output" in line:
            assert (here / line[line.index("--output") + 1]).exists()


def test_most_commands_of_the_pages_are_run():
    shown = [command_of(line) for page in PAGES for line in commands(page, in_sentences=False)]
    assert set(shown) >= RUN
    assert sum(name in RUN for name in shown) > 20
