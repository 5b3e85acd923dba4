"""A few kills of every kind; `make soak` makes hundreds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "soak.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_is_killed_ends_where_the_undisturbed_ends():
    command = [sys.executable, str(PROGRAM), "--kills", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| `")]
    assert len(rows) == 5
    assert all(row.endswith("| 1 | 0 |") for row in rows), done.stdout
