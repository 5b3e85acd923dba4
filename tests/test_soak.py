"""Five kills of each command; `make soak` makes hundreds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "soak.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_and_resumed_command_ends_like_an_uninterrupted_one():
    command = [sys.executable, str(PROGRAM), "--kills", "5"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    rows = [line for line in process.stdout.splitlines() if line.startswith("| `")]
    assert len(rows) == 5
    assert all(row.endswith("| 1 | 0 |") for row in rows), process.stdout
