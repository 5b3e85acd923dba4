"""The notebooks of examples/ are the tutorial pages, and they run."""

import importlib.util
import json
import subprocess
import sys

import pytest

from pages import ROOT

_spec = importlib.util.spec_from_file_location("notebooks", ROOT / "docs" / "notebooks.py")
notebooks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(notebooks)

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
WRITES = {
    "a-shop-with-views-carts-and-purchases": ["events.csv"],
    "improve-a-recbole-model": ["runs/mine/report.html", "saved/tuned.pth"],
    "improve-your-own-pytorch-model": ["tuned.pt", "runs/with-loss/report.html"],
}
"""Files that exist after the last cell."""


def program(path):
    """Return the code cells of a notebook as one Python program; "!recoach" runs the command."""
    lines = ["import shlex", "import subprocess", "import sys"]
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        if source.startswith("!"):
            for line in source.splitlines():
                assert line.startswith("!recoach ")
                call = f"[sys.executable, '-m', *shlex.split({line[1:]!r})]"
                lines.append(f"subprocess.run({call}, check=True)")
        else:
            lines.append(source)
    return "\n".join(lines)


def test_every_tutorial_with_code_has_a_notebook():
    assert {path.stem for path in NOTEBOOKS} == set(notebooks.TUTORIALS) == set(WRITES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_what_the_script_writes_from_its_page(path):
    assert path.read_text() == notebooks.notebook(path.stem), "run `python docs/notebooks.py`"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_point_to_files(path):
    cells = json.loads(path.read_text())["cells"]
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    targets = [link.split("#")[0] for link in notebooks.re.findall(r"\]\(([^)\s]+)\)", text)]
    missing = [t for t in targets if t and "://" not in t and not (path.parent / t).exists()]
    assert missing == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_the_first_cell_to_the_last(path, tmp_path):
    (tmp_path / "cells.py").write_text(program(path))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "cells.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    for name in WRITES[path.stem]:
        assert (tmp_path / name).exists()
