"""Models of one's own on the command line, named by their import path."""

import sys

import polars as pl

from toy_models import TOWERS


def test_a_model_of_the_working_directory_is_trained_and_used(recoach, tmp_path, monkeypatch):
    (tmp_path / "my_towers_cli.py").write_text(TOWERS)
    rows = [(f"u{u}", f"i{(u + step) % 9}", step) for u in range(20) for step in range(6)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    log.write_csv(tmp_path / "log.csv")
    monkeypatch.chdir(tmp_path)
    changes = ["data.k_core=0", "data.split=leave_last_out", "model.dim=5", "pretrain.epochs=2"]
    options = [part for change in changes for part in ("--set", change)]
    done = recoach(
        "pretrain", "log.csv", "--model", "my_towers_cli:build", "--output", "run", *options
    )
    assert done.code == 0, done.err
    tuned = recoach("finetune", "run", "--set", "finetune.max_steps=2")
    assert tuned.code == 0, tuned.err
    lists = recoach("recommend", "run", "--users", "u1", "--k", "2", "--output", "lists.csv")
    assert lists.code == 0, lists.err
    assert pl.read_csv("lists.csv").height == 2
    (tmp_path / "my_towers_cli.py").unlink()
    monkeypatch.delitem(sys.modules, "my_towers_cli")
    refused = recoach("recommend", "run", "--users", "u1")
    assert refused.code == 2
    assert "The code of model my_towers_cli:build cannot be imported" in refused.err
