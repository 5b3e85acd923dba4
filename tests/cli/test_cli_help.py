"""Help: examples that parse, messages for typos, shell completion."""

import re
import shlex
import subprocess
import sys

import pytest
from cyclopts import App

from recoach.cli.main import app


def verbs(group, *before):
    """Return every command as a tuple of words, without groups."""
    names = []
    for name in group:
        part = group[name]
        if name.startswith("-"):
            continue
        names += verbs(part, *before, name) if part.default_command is None else [(*before, name)]
    return names


VERBS = verbs(app)


def test_the_list_of_commands_is_complete():
    assert {("finetune",), ("data", "describe"), ("export", "onnx")} <= set(VERBS)
    assert isinstance(app["data"], App)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_command_shows_an_example_that_parses(recoach, verb):
    result = recoach(*verb, "--help")
    assert result.code == 0
    example = re.search(r"Example: recoach (.+)$", result.out)
    assert example, result.out
    words = shlex.split(example[1])
    assert words[: len(verb)] == list(verb)
    app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("fintune runs/mine", 'Did you mean "finetune"?'),
        ("data describ log.csv", 'Did you mean "describe"?'),
        ("pretrain log.csv --ouput x", "Did you mean --output"),
        ("pretrain log.csv --output x --model sasrek", "Did you mean 'sasrec'?"),
        ("pretrain log.csv --output x --set finetune.bta=1", "Did you mean 'beta'?"),
        (
            "data describe {log} --column user_id=user",
            "Pass --column user_id=NAME with one of them",
        ),
        ("recommend x --k ten", "--k must be a whole number of at least 1, not 'ten'"),
        ("recommend x --stage tund", 'Did you mean "tuned"?'),
        ("finetune", "requires an argument"),
    ],
)
def test_a_typo_is_reported_in_one_line_with_a_suggestion(recoach, log, typed, message):
    result = recoach(*(word.format(log=log) for word in typed.split()))
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("Error: ")
    assert message in result.err
    assert "Traceback" not in result.err
    assert result.err.count("\n") == 1


def test_the_completion_script_of_a_shell_is_written(recoach, tmp_path):
    script = tmp_path / "recoach.bash"
    assert recoach("--install-completion", "--shell", "bash", "--output", script).code == 0
    text = script.read_text()
    assert "finetune" in text
    assert "--resume" in text


def test_help_and_import_do_not_load_heavy_packages():
    """Importing torch alone takes half a second, so the test checks modules instead of time."""
    code = "import sys, recoach, recoach.cli.main; print([m for m in {!r} if m in sys.modules])"
    heavy = ["torch", "polars", "pydantic", "matplotlib", "scipy", "numpy"]
    process = subprocess.run(
        [sys.executable, "-c", code.format(heavy)], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"


def test_without_extras_typos_are_reported_and_search_has_help():
    """Cyclopts imports every command to find the nearest name."""
    code = (
        "import sys; sys.modules |= dict.fromkeys("
        "['optuna', 'yaml', 'fastapi', 'uvicorn', 'gymnasium', 'faiss', 'onnxruntime', 'pandas']);"
        "from recoach.cli.main import main; main()"
    )
    result = [
        subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
        )
        for words in (["fintune"], ["search", "--help"], ["search"])
    ]
    assert [run.returncode for run in result] == [2, 0, 2], result
    assert 'Did you mean "finetune"?' in result[0].stderr
    assert "--trials" in result[1].stdout
    assert "pip install 'recoach[tune]'" in result[2].stderr
