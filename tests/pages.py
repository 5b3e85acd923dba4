"""Helpers of the documentation tests: the pages, their code blocks, commands, tables and links."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SHELLS = ("bash", "sh", "shell", "console")
RESULTS = re.compile(r"^<!-- results: .*?^<!-- end of results -->", re.M | re.S)
"""A block that `make results` writes."""


def blocks(page, *languages):
    """Return the fenced blocks of a page in some languages."""
    fenced = re.findall(r"^```(\w+)[^\n]*\n(.*?)^```", page.read_text(), re.M | re.S)
    return [text for language, text in fenced if language in languages]


def commands(page, *, in_sentences=True):
    """Return the arguments of each `recoach` command in a page's blocks and inline code."""
    lines = "\n".join(blocks(page, *SHELLS)).replace("\\\n", " ")
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines.splitlines()]
    if in_sentences:
        inline = re.findall(r"`([^`\n]*recoach [^`\n]+)`", page.read_text())
        words += [shlex.split(code) for code in inline]
    return [line[1:] for line in words if line and line[0].rsplit("/")[-1] == "recoach"]


def tables(text):
    """Return the rows of all tables in a text, as lists of cells, without headings and rules."""
    rows, previous = [], ""
    for line in text.splitlines():
        if line.startswith("|") and previous.startswith("|") and not set(line) <= set("|-: "):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        previous = line
    return rows


def codes(text):
    """Return the inline code of a text."""
    return re.findall(r"`([^`\n]+)`", text)


def links(page):
    """Return the targets of a page's relative links, without anchors."""
    targets = re.findall(r"\]\(([^)\s]+)\)", RESULTS.sub("", page.read_text()))
    local = [target.split("#")[0] for target in targets if "://" not in target]
    return [target for target in local if target and not target.startswith("mailto:")]
