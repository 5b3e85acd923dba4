"""A user's script is clean for type checkers that know nothing of pydantic's plugin."""

import importlib.util
import sys
from pathlib import Path

import pytest

import recoach

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "examples" / "typed_script.py"


def test_the_script_runs_and_stops_at_the_third_step(tmp_path):
    spec = importlib.util.spec_from_file_location("typed_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.main(str(tmp_path / "run")).height == 3
    assert recoach.load(tmp_path / "run", build=script.build).stage == "tuned"


@pytest.mark.slow
def test_the_script_is_clean_for_mypy_strict(tmp_path):
    api = pytest.importorskip("mypy.api")
    options = ["--strict", "--config-file", "", "--cache-dir", str(tmp_path)]
    output, errors, code = api.run([*options, "--python-executable", sys.executable, str(SCRIPT)])
    assert (code, errors) == (0, ""), output
