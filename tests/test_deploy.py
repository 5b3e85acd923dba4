"""The files in deploy/ start commands that exist."""

import json
import re
import shlex
from pathlib import Path

import pytest

from recoach.cli.main import app
from recoach.cli.serve import API_KEY_VARIABLE, SALT_VARIABLE

pytest.importorskip("uvicorn", reason="the serve extra is not installed")
from recoach.serving.server import STOP_SECONDS

DEPLOY = Path(__file__).parents[1] / "deploy"


def of_image():
    text = (DEPLOY / "Dockerfile").read_text()
    entry, command = (
        json.loads(re.search(rf"^{name} (\[.*\])$", text, re.MULTILINE)[1])
        for name in ("ENTRYPOINT", "CMD")
    )
    return entry + command


def of_compose():
    text = (DEPLOY / "compose.yaml").read_text()
    command = re.search(r"command:\n((?: +- .*\n)+)", text)[1]
    return ["recoach", "serve", *re.findall(r"- (.*)", command)]


def of_unit():
    text = (DEPLOY / "recoach.service").read_text().replace("\\\n", " ")
    return shlex.split(re.search(r"^ExecStart=(.*)$", text, re.MULTILINE)[1])


@pytest.mark.parametrize("command", [of_image, of_compose, of_unit])
def test_the_commands_parse(command):
    program, *arguments = command()
    assert Path(program).name == "recoach"
    _, bound, ignored = app.parse_args(arguments, exit_on_error=False, print_error=False)[:3]
    assert not ignored
    assert len(bound.args) == 1
    assert bound.kwargs["exposure_log"] == Path("/var/log/recoach")


@pytest.mark.parametrize(
    ("command", "file", "pattern"),
    [
        (of_compose, "compose.yaml", r"stop_grace_period: (\d+)s"),
        (of_unit, "recoach.service", r"TimeoutStopSec=(\d+)"),
    ],
)
def test_processes_have_the_time_to_drain_and_to_finish(command, file, pattern):
    arguments = " ".join(command())
    drain = int(re.search(r"--drain-seconds[ =](\d+)", arguments)[1])
    assert int(re.search(pattern, (DEPLOY / file).read_text())[1]) >= drain + STOP_SECONDS


@pytest.mark.parametrize("file", ["compose.yaml", "recoach.service"])
def test_the_variables_are_those_that_the_command_reads(file):
    names = set(re.findall(r"RECOACH_[A-Z_]+", (DEPLOY / file).read_text()))
    assert names == {API_KEY_VARIABLE, SALT_VARIABLE}
