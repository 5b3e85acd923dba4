"""`recoach reproduce` from the command line, on a small log."""

import base64
import gzip
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import polars as pl
import pytest

from recoach.report.tables import format_metric
from recoach.reproduction import paper_cells
from recoach.reproduction.datasets import find_sources, missing_categories
from recoach.reproduction.paper_results import METRICS, TABLE1, TABLE3, TABLE4
from recoach.training.trainer import RLTrainer
from toy_logs import block_graph

PRETRAIN = {"max_steps": 3, "batch_size": 128}
BUDGET = {"max_steps": 2, "eval_steps": 1, "num_generations": 16, "batch_size": 64}
"""Few steps: training is tested elsewhere."""


def write_log(path):
    log = block_graph(60, 40, n_blocks=4, length=9)
    frame = pl.DataFrame(
        {
            "user_id": log.user_ids.gather(log.users),
            "item_id": log.item_ids.gather(log.items),
            "timestamp": range(len(log)),
        }
    )
    frame.write_csv(path)


@pytest.fixture(scope="module")
def small_budget():
    """Shorten the training of all cells."""
    patch = pytest.MonkeyPatch()
    for model in paper_cells.BACKBONES:
        patch.setitem(paper_cells._PRETRAIN["quick"], model, PRETRAIN)
    patch.setitem(paper_cells._BUDGET, "quick", BUDGET)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_budget, recoach):
    """Run all suites once."""
    folder = tmp_path_factory.mktemp("reproduce")
    write_log(folder / "log.csv")
    for what, seeds in (("table3", 2), ("table4", 1), ("factors", 1), ("figure1", 2)):
        said = recoach(
            "reproduce",
            what,
            f"--dataset=Video_small={folder / 'log.csv'}",
            f"--seeds={seeds}",
            f"--output={folder}",
        )
        assert said.code == 0, said.err
    return folder


def test_every_table_is_written_in_every_format(folder):
    quick = folder / "quick"
    for what in ("table3", "table4", "factors", "figure1"):
        texts = [(quick / f"{what}.{ending}").read_text() for ending in ("md", "tex", "html")]
        heading = {"factors": "Factors"}.get(what, f"{what[:-1].title()} {what[-1]}")
        assert all(f"{heading}: Video" in text for text in texts)
        numbers = re.findall(r"0\.\d{4}", texts[0])
        assert numbers
        assert all(number in text for text in texts[1:] for number in numbers)
    for name in ("figure1", "factors"):
        assert (quick / f"{name}.svg").read_text().startswith("<?xml")
        picture = (quick / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert base64.b64encode(picture).decode() in (quick / f"{name}.html").read_text()


def test_table_3_shows_the_paper_the_control_and_the_comparisons(folder):
    text = (folder / "quick" / "table3.md").read_text()
    record = json.loads((folder / "quick" / "table3.json").read_text())
    cells = record["data"]["Video_small"]["cells"]
    for model, name in (("sasrec", "SASRec"), ("lightgcn", "LightGCN"), ("gsau", "GSAU")):
        rows = [line for line in text.splitlines() if line.startswith(f"| {name}")]
        base, control, tuned = rows[:3]
        for place, metric in enumerate(METRICS):
            assert f"{TABLE3[(model, 'base')]['Video_Games'][place]:.4f}" in base
            assert f"{TABLE3[(model, 'tuned')]['Video_Games'][place]:.4f}" in tuned
            assert f"{cells[model]['models']['control']['test'][metric]['mean']:.4f}" in control
        assert re.search(r"(better|worse|no difference) \(", tuned)
        assert cells[model]["seeds"] == [2020, 2021]
        assert set(cells[model]["models"]) == {"popularity", "base", "control", "tuned"}
    assert "−38.3 %" in text
    popular = cells["gsau"]["models"]["popularity"]["test"]["recall@10"]["mean"]
    assert f"| Popularity | – | {popular:.4f} |" in text


def rows_under(text, heading):
    """Return the rows of the table under a heading, by their first cell."""
    lines = text[text.index(f"### {heading}") :].splitlines()[2:]
    table = list(itertools.takewhile(lambda line: line.startswith("|"), lines))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[2:]}


def test_table_3_is_followed_by_all_cut_offs_and_popularity_fifths(folder):
    text = (folder / "quick" / "table3.md").read_text()
    record = json.loads((folder / "quick" / "table3.json").read_text())
    cells = record["data"]["Video_small"]["cells"]
    names = {"Popularity": ("sasrec", "popularity"), "SASRec-GRPO": ("sasrec", "tuned")}
    names |= {"GSAU + continued training": ("gsau", "control"), "LightGCN": ("lightgcn", "base")}
    cuts, lists = (
        rows_under(text, f"{h}: Video_small") for h in ("All cut-offs", "Beyond accuracy")
    )
    assert len(cuts) == len(lists) == 10
    for label, (model, stage) in names.items():
        found = cells[model]["models"][stage]
        for kind, shown in (("recall", "Recall"), ("ndcg", "NDCG")):
            for k in (1, 5, 10, 50):
                mean = found["test"][f"{kind}@{k}"]["mean"]
                assert cuts[label][f"{shown}@{k}"].startswith(f"{mean:.4f}")
        fifths = [bucket["recall@10"] for bucket in found["popularity_buckets"]]
        assert list(lists[label].values())[-5:] == [format_metric(recall) for recall in fifths]
        assert lists[label]["Gini"] == f"{found['lists']['gini@10']['mean']:.4f}"
    assert "Continued training: the base's own loss for as many steps as GRPO" in text
    assert "Continued training" not in (folder / "quick" / "figure1.md").read_text()


def test_table_4_has_four_choices_of_tables_with_and_without_dropout(folder):
    text = (folder / "quick" / "table4.md").read_text()
    for moved in TABLE4:
        if moved != "base":
            on, off = (
                next(line for line in text.splitlines() if line.startswith(f"| {moved}, {how}"))
                for how in ("dropout on", "dropout off")
            )
            assert f"{TABLE4[moved]['Video_Games'][0]:.4f}" in on
            assert f"{TABLE4[moved]['Video_Games'][0]:.4f}" not in off


def test_cells_with_the_same_base_settings_train_it_once(folder):
    runs = folder / "quick" / "Video_small"
    bases = {
        path.parent.parent.parent.name: path.read_bytes()
        for path in runs.glob("*/checkpoints/base/best.safetensors")
    }
    shared = [name for name in bases if name.startswith("sasrec-") and name.endswith("-2020")]
    apart = {name for name in shared if "held-out" in name or "all-of-these" in name}
    assert len(apart) == 3
    assert len({bases[name] for name in shared if name not in apart}) == 1
    assert {bases[name] for name in apart}.isdisjoint({bases["sasrec-2020"]})


def test_a_finished_suite_is_not_run_again(folder, recoach, small_budget):
    runs = folder / "quick" / "Video_small"
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/results.json")}
    said = recoach(
        "reproduce", "table3", f"--dataset=Video_small={folder / 'log.csv'}", f"--output={folder}"
    )
    assert said.code == 0
    assert "Training" not in said.out
    assert before == {path: path.stat().st_mtime_ns for path in runs.glob("*/results.json")}


def test_an_interrupted_suite_resumes_and_ends_with_the_same_weights(
    folder, tmp_path, recoach, small_budget, monkeypatch, run_files
):
    command = ("reproduce", "table3", f"--dataset=Video_small={folder / 'log.csv'}")
    step, count = RLTrainer.step, []

    def interrupted(self, batch, generator):
        count.append(1)
        if len(count) == 4:  # the second step of the second backbone
            raise KeyboardInterrupt
        return step(self, batch, generator)

    with monkeypatch.context() as patch:
        patch.setattr(RLTrainer, "step", interrupted)
        said = recoach(*command, f"--output={tmp_path}")
    assert said.code == 130
    runs = tmp_path / "quick" / "Video_small"
    assert not (runs / "lightgcn-2020" / "results.json").exists()
    assert recoach(*command, f"--output={tmp_path}").code == 0
    for cell in ("sasrec-2020", "lightgcn-2020", "gsau-2020"):
        whole = folder / "quick" / "Video_small" / cell
        assert run_files.numbers(runs / cell) == run_files.numbers(whole)
        assert run_files.weights(runs / cell) == run_files.weights(whole)


def start(*arguments):
    """Start a separate process with the small budget."""
    code = f"""
from recoach.cli.main import main
from recoach.reproduction import paper_cells
paper_cells._PRETRAIN["quick"] = dict.fromkeys(paper_cells.BACKBONES, {PRETRAIN})
paper_cells._BUDGET["quick"] = {BUDGET}
main()
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    alike = os.environ | {"OMP_NUM_THREADS": "1"}  # as many threads as the tests have
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=alike, **pipes)


def test_two_processes_run_one_suite_together(folder, tmp_path, run_files):
    log = f"--dataset=Video_small={folder / 'log.csv'}"
    command = ("reproduce", "table3", log, f"--output={tmp_path}")
    runs = tmp_path / "quick" / "Video_small"
    slow = start(*command)
    while not (runs / "sasrec-2020" / ".lock").exists():
        assert slow.poll() is None, slow.communicate()
        time.sleep(0.01)
    slow.send_signal(signal.SIGSTOP)  # it keeps its first cell locked until the other has finished
    try:
        alone = start(*command, "--only=sasrec").communicate(timeout=120)
        assert "to complete the tables" in alone[1]  # no table to write, and no traceback
        assert not (tmp_path / "quick" / "table3.md").exists()
        quick = start(*command)
        out, err = quick.communicate(timeout=120)
    finally:
        slow.send_signal(signal.SIGCONT)
    assert quick.returncode == 0, err
    out, err = (" ".join(text.split()) for text in (out, err))
    assert f"Video_small: sasrec, seed 2020: skipped, process {slow.pid} has worked" in out
    assert err.startswith(
        "Not finished, as another process is working on it: Video_small: sasrec, seed 2020."
    )
    assert sorted(json.loads((tmp_path / "quick" / "table3.json").read_text())["seeds"]) == [2020]
    assert "SASRec" not in (tmp_path / "quick" / "table3.md").read_text()
    out, err = slow.communicate(timeout=120)
    assert (slow.returncode, err) == (0, "")
    assert "SASRec" in (tmp_path / "quick" / "table3.md").read_text()
    for cell in ("sasrec-2020", "lightgcn-2020", "gsau-2020"):
        assert run_files.weights(runs / cell) == run_files.weights(
            folder / "quick" / "Video_small" / cell
        )


def test_only_the_named_cells_are_run(folder, tmp_path, recoach, small_budget):
    said = recoach(
        *("reproduce", "factors", "--only", "lightgcn-temp"),
        *(f"--dataset=shop={folder / 'log.csv'}", f"--output={tmp_path}"),
    )
    assert said.code == 0
    assert [path.name for path in (tmp_path / "quick" / "shop").iterdir()] == [
        "lightgcn-temperature-2020"
    ]


def test_table_1_counts_users_and_items_like_the_paper(tmp_path, recoach):
    log = tmp_path / "log.csv"
    write_log(log)
    frame = pl.read_csv(log)
    # The raw files: reviews as gzipped JSON lines, ratings as CSV with parent_asin.
    data = tmp_path / "raw"
    data.mkdir()
    named = frame.rename({"item_id": "parent_asin"}).with_columns(rating=5.0)
    named.select("user_id", "parent_asin", "rating", "timestamp").write_csv(
        data / "Video_Games.csv"
    )
    lines = [json.dumps(row | {"title": "so", "asin": "other"}) for row in named.to_dicts()]
    with gzip.open(data / "Baby_Products.jsonl.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    said = recoach("reproduce", "table1", f"--data={data}", f"--output={tmp_path}")
    assert said.code == 0, said.err
    lines = (tmp_path / "table1.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| Video_Games")]
    users = frame["user_id"].n_unique()
    assert f"| 98,906 | {users} | {users - TABLE1['Video_Games'][0]:+,} |" in rows[0]
    assert "has no Industrial_and_Scientific; continuing without it" in said.err
    assert "has no Baby" not in said.err
    ours = [line.split("|")[3] for line in lines if line.startswith("| Baby_Products")]
    assert [row.split("|")[3] for row in rows] == ours


def test_table_1_counts_a_prepared_folder_as_it_is(tmp_path, recoach):
    write_log(tmp_path / "log.csv")
    prepared = f"--output={tmp_path / 'shop'}"
    assert recoach("data", "prepare", str(tmp_path / "log.csv"), prepared).code == 0
    for name, path in (("log", "log.csv"), ("prepared", "shop")):
        arguments = f"--dataset=Video_small={tmp_path / path}"
        said = recoach("reproduce", "table1", arguments, f"--output={tmp_path / name}")
        assert said.code == 0, said.err
        assert "Warning" not in said.err
    of_log, of_folder = ((tmp_path / n / "table1.md").read_text() for n in ("log", "prepared"))
    assert of_folder == of_log
    assert "| Video_small, interactions | 857,505 | 540 |" in of_folder


def test_the_k_core_can_be_set(tmp_path, recoach):
    write_log(tmp_path / "log.csv")
    with (tmp_path / "log.csv").open("a") as log:
        log.write("once,rare,541\n")
    for core, users in ((0, 61), (5, 60)):
        arguments = (f"--dataset=Video_small={tmp_path / 'log.csv'}", f"--k-core={core}")
        said = recoach("reproduce", "table1", *arguments, f"--output={tmp_path}")
        assert f"Iterated {core}-core" in said.out
        assert f"| Video_small, users | 98,906 | {users} |" in said.out


def test_of_several_files_of_a_category_the_first_suffix_is_read(tmp_path):
    for ending in (".csv", ".jsonl", ".jsonl.gz"):
        (tmp_path / f"Video_Games{ending}").write_text("")
    (source,) = find_sources(tmp_path, [])
    assert source.path.endswith("Video_Games.jsonl.gz")
    assert missing_categories(tmp_path, [source]) == ("Baby_Products", "Industrial_and_Scientific")
    assert missing_categories(None, [source]) == ()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["table3"], ["There is no data set", "--data DIR", "--dataset NAME=PATH"]),
        (["table3", "--dataset", "shop"], ["NAME=PATH", "'shop'"]),
        (["table3", "--dataset", "shop=gone.csv"], ["there is no gone.csv"]),
        (["table3", "--data", "."], ["Baby_Products", "recoach data fetch"]),
        (["table3", "--data", "nope"], ["--data", "there is no nope"]),
        (["table3", "--data", "log.csv"], ["log.csv is a file", "--dataset NAME=log.csv"]),
        (["table3", "--dataset", "a=log.csv", "--dataset", "a=log.csv"], ["called a"]),
        (["table3", "--dataset", "a=log.csv", "--seeds", "0"], ["--seeds must be at least 1"]),
        (["table3", "--dataset", "a=log.csv", "--k-core=-1"], ["--k-core must be at least 0"]),
        (["table3", "--dataset", "a=log.csv", "--only", "gru"], ["--only gru leaves no cell"]),
    ],
)
def test_wrong_arguments_are_errors_with_exit_code_2(given, words, tmp_path, monkeypatch, recoach):
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / "log.csv")
    said = recoach("reproduce", *given)
    assert said.code == 2
    assert all(word in said.err for word in words), said.err
    assert not (tmp_path / "runs").exists()


def test_the_lock_of_a_process_killed_after_its_results_is_removed(folder, tmp_path):
    shutil.copytree(folder / "quick", tmp_path / "quick")
    lock = tmp_path / "quick" / "Video_small" / "sasrec-2020" / ".lock"
    lock.write_text("{}")
    log = f"--dataset=Video_small={folder / 'log.csv'}"
    process = start("reproduce", "table3", log, f"--output={tmp_path}")
    assert process.communicate(timeout=120)[1] == ""
    assert not lock.exists()


def test_the_old_name_of_the_algorithms_is_accepted_with_a_warning(tmp_path, recoach):
    write_log(tmp_path / "log.csv")
    said = recoach(
        *("reproduce", "rivals", "--only", "gru"),
        *(f"--dataset=shop={tmp_path / 'log.csv'}", f"--output={tmp_path}"),
    )
    assert said.code == 2
    assert "`rivals` is now called `algorithms`" in said.err
    assert "--only gru leaves no cell of algorithms" in said.err
