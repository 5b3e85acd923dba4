"""The commands of the page for RecBole users, with RecBole itself before and after."""

import ast
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import recoach as front
from recoach.data.prepared import load_dataset
from recoach.evaluation.evaluator import evaluate
from recoach.models.checkpoint import load_model

PYTHON = os.environ.get("RECOACH_RECBOLE_PYTHON")
TESTS = Path(__file__).resolve().parents[1]
PAGE = (TESTS.parent / "docs" / "how-to" / "move-models-to-and-from-recbole.md").read_text()
FEW = ("--set", "finetune.epochs=4", "finetune.patience=0", "finetune.select=best_tuned")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PYTHON is None, reason="RECOACH_RECBOLE_PYTHON names no Python with RecBole"
    ),
]


def in_recbole(folder, *arguments):
    """Run a program in RecBole's environment and return its output."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    command = [PYTHON, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def helped(folder, *arguments):
    in_recbole(folder, TESTS / "in_recbole.py", *arguments)
    return json.loads((folder / "answer.json").read_text())


def rounded(values):
    return {name: round(values[name], 4) for name in ("recall@10", "ndcg@10", "mrr@10")}


def ours(run, stage, mask):
    dataset = load_dataset(run / "dataset")
    model = load_model(run / "checkpoints" / stage, dataset)
    return rounded(evaluate(model, dataset, "test", repeats=mask).means())


@pytest.mark.parametrize("name", ["BPR", "GRU4Rec", "LightGCN", "SASRec"])
def test_the_five_commands_give_the_same_metrics_in_recbole(name, recoach, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "dataset" / "log" / "log.inter"
    log.parent.mkdir(parents=True)
    frame = (
        front.shop(n_users=200, n_items=90, seed=1)
        .interactions.frame()
        .sample(fraction=1.0, shuffle=True, seed=1)
    )
    times = frame["timestamp"].dt.epoch("s")
    rows = zip(frame["user_id"], frame["item_id"], times, strict=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    log.write_text("\n".join([*lines, *("\t".join(map(str, row)) for row in rows)]) + "\n")

    trained = helped(tmp_path, "train", name)
    Path(trained["file"]).rename("saved/model.pth")
    block = re.search(r"```sh\n(.*?)```", PAGE, re.S)[1].splitlines()
    steps = [shlex.split(line, comments=True) for line in block]
    assert [step[:2] for step in steps] == [
        ["pip", "install"],
        ["recoach", "import"],
        ["recoach", "finetune"],
        ["recoach", "export"],
        ["python", "evaluate.py"],
    ]
    for step in steps[1:4]:
        result = recoach(*step[1:], *(FEW if step[1] == "finetune" else ()))
        assert result.code == 0, result
    run = tmp_path / "runs" / "mine"
    assert ours(run, "base", "recbole") == rounded(trained["test"])

    Path("evaluate.py").write_text(re.search(r"```py\n(.*?)```", PAGE, re.S)[1])
    printed = in_recbole(tmp_path, *steps[4][1:]).splitlines()[-1]
    numbers = ast.literal_eval(re.sub(r"np\.float64\(([^)]*)\)", r"\1", printed))
    tuned = ours(run, "tuned", "recbole")
    assert rounded(numbers) == tuned
    results = json.loads((run / "results.json").read_text())["models"]["tuned"]["test"]
    assert rounded(results) == tuned
    assert tuned != rounded(trained["test"])
    found = helped(tmp_path, "evaluate", "saved/tuned.pth")
    assert rounded(found["default"]) == tuned
    assert rounded(found["masked"]) == ours(run, "tuned", "new")
    assert rounded(found["unmasked"]) == ours(run, "tuned", "all")
