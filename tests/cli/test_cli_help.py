"""Help: an example for every command that parses, words for every slip, a shell that completes."""

import re
import shlex
import subprocess
import sys

import pytest
from cyclopts import App

from recoach.cli.main import app


def verbs(group, *before):
    """Return every command that does something, as words."""
    found = []
    for name in group:
        part = group[name]
        if name.startswith("-"):
            continue
        found += verbs(part, *before, name) if part.default_command is None else [(*before, name)]
    return found


VERBS = verbs(app)


def test_commands_were_found():
    assert {("finetune",), ("data", "describe"), ("export", "onnx")} <= set(VERBS)
    assert isinstance(app["data"], App)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_command_shows_an_example_that_parses(recoach, verb):
    said = recoach(*verb, "--help")
    assert said.code == 0
    shown = re.search(r"Example: recoach (.+)$", said.out)
    assert shown, said.out
    words = shlex.split(shown[1])
    assert words[: len(verb)] == list(verb)
    app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("fintune runs/mine", 'Did you mean "finetune"?'),
        ("data describ log.csv", 'Did you mean "describe"?'),
        ("pretrain log.csv --ouput x", "Did you mean --output"),
        ("pretrain log.csv --output x --model sasrek", "Did you mean 'sasrec'?"),
        ("pretrain log.csv --output x --set grpo.bta=1", "Did you mean 'beta'?"),
        ("data describe {log} --column user_id=user", "Did you mean 'user_id'?"),
        ("recommend x --k ten", 'unable to convert "ten" into int'),
        ("recommend x --stage tund", 'Did you mean "tuned"?'),
        ("finetune", "requires an argument"),
    ],
)
def test_a_slip_is_told_in_a_sentence(recoach, log, typed, told):
    said = recoach(*(word.format(log=log) for word in typed.split()))
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("Error: ")
    assert told in said.err
    assert "Traceback" not in said.err
    assert said.err.count("\n") == 1


def test_a_shell_is_given_its_completion(recoach, tmp_path):
    script = tmp_path / "recoach.bash"
    assert recoach("--install-completion", "--shell", "bash", "--output", script).code == 0
    text = script.read_text()
    assert "finetune" in text
    assert "--resume" in text


def test_help_and_import_are_quick():
    """Torch alone takes longer than half a second; so what must not be there is asked, not time."""
    code = "import sys, recoach, recoach.cli.main; print([m for m in {!r} if m in sys.modules])"
    heavy = ["torch", "polars", "pydantic", "matplotlib", "scipy", "numpy"]
    found = subprocess.run(
        [sys.executable, "-c", code.format(heavy)], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_without_extras_a_slip_is_a_sentence_and_search_has_its_help():
    """Cyclopts imports every verb to look for the nearest one."""
    code = (
        "import sys; sys.modules |= dict.fromkeys("
        "['optuna', 'yaml', 'fastapi', 'uvicorn', 'gymnasium', 'faiss', 'onnxruntime', 'pandas']);"
        "from recoach.cli.main import main; main()"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
        )
        for words in (["fintune"], ["search", "--help"], ["search"])
    ]
    assert [run.returncode for run in said] == [2, 0, 2], said
    assert 'Did you mean "finetune"?' in said[0].stderr
    assert "--trials" in said[1].stdout
    assert "pip install 'recoach[tune]'" in said[2].stderr
