"""The command line under torchrun: two processes, a killed one, an unsupported command."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recoach.experiments.run_folder import RunFolder
from recoach.models.checkpoint import load_tensors

SETTINGS = ["seed=5", "model.dim=16", "model.inner_dim=32", "pretrain.eval_steps=10"]
SETTINGS += [
    "pretrain.epochs=1",
    "finetune.epochs=1",
    "finetune.eval_steps=10",
    "evaluation.control=false",
]
SHARDED = ["pretrain.shard_items=true", "finetune.shard_items=true"]


def start(*words):
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "recoach"]
    return subprocess.Popen(
        [sys.executable, "-m", *command, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder, *settings, resume=False):
    experiment = folder.parent / "shop.toml"
    experiment.write_text("")
    more = ["--resume"] if resume else []
    words = ["run", str(experiment), "--output", str(folder), *more, "--set", *SETTINGS]
    return start(*words, *settings)


def worker(launcher, rank):
    """Return the process id of a rank under torchrun, or None if there is none."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher.pid and f"RANK={rank}\0" in (path / "environ").read_text():
                return int(path.name)
        except OSError:  # the process has ended
            continue
    return None


def weights(folder, stage):
    return load_tensors(RunFolder(folder).checkpoints(stage) / "last.safetensors").tensors


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(("rank", "more"), [(0, []), (1, []), (0, SHARDED), (1, SHARDED)])
def test_a_killed_process_stops_the_others_and_the_run_resumes_bit_for_bit(rank, more, tmp_path):
    complete = run(tmp_path / "whole", *more)
    output = complete.communicate(timeout=300)[0]
    assert complete.returncode == 0, output
    assert output.count("Training the base") == 1  # only rank 0 prints

    lost = run(tmp_path / "lost", *more)
    while not any(row["stage"] == "base" for row in RunFolder(tmp_path / "lost").metrics()):
        assert lost.poll() is None, lost.communicate()[0]
        time.sleep(0.02)
    other = worker(lost, 1 - rank)
    os.kill(worker(lost, rank), signal.SIGKILL)
    output = lost.communicate(timeout=120)[0]
    assert lost.returncode != 0
    assert not Path(f"/proc/{other}").exists()
    assert "goes on" in output or "Interrupted" in output or "Signal 9" in output
    assert "Base + fine-tuning" not in output
    assert not RunFolder(tmp_path / "lost").is_complete("base")

    again = run(tmp_path / "lost", *more, resume=True)
    output = again.communicate(timeout=300)[0]
    assert again.returncode == 0, output
    for stage in ("base", "tuned"):
        ours, theirs = weights(tmp_path / "lost", stage), weights(tmp_path / "whole", stage)
        assert ours.keys() == theirs.keys()
        assert all((ours[name] == theirs[name]).all() for name in ours)
    assert not list((tmp_path / "lost").rglob("*.part"))


@pytest.mark.slow
def test_a_command_for_one_process_is_refused_under_torchrun(tmp_path):
    process = start("search", "--output", str(tmp_path / "search"))
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert "recoach search runs in one process" in output
    assert not (tmp_path / "search").exists()
