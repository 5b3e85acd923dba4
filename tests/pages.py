"""The documents, and what tests want to know of them."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SHELLS = ("bash", "sh", "shell", "console")


def blocks(page, *languages):
    """Return the fenced blocks of a page in some languages."""
    found = re.findall(r"^```(\w+)[^\n]*\n(.*?)^```", page.read_text(), re.M | re.S)
    return [text for language, text in found if language in languages]


def commands(page, *, in_sentences=True):
    """Return the `recoach` command lines in a page's blocks and sentences, as lists of words."""
    lines = "\n".join(blocks(page, *SHELLS)).replace("\\\n", " ")
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines.splitlines()]
    if in_sentences:
        found = re.findall(r"`([^`\n]*recoach [^`\n]+)`", page.read_text())
        words += [shlex.split(code) for code in found]
    return [line[1:] for line in words if line and line[0].rsplit("/")[-1] == "recoach"]


def tables(text):
    """Return the rows of all tables in a text, as lists of cells, without heads and rules."""
    found, before = [], ""
    for line in text.splitlines():
        if line.startswith("|") and before.startswith("|") and not set(line) <= set("|-: "):
            found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        before = line
    return found


def codes(text):
    """Return what stands in backticks."""
    return re.findall(r"`([^`\n]+)`", text)
