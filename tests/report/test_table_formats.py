"""The same cells as Markdown, LaTeX and HTML, whatever is in them."""

import html.parser
import re

from recoach.report.table_formats import ResultTable, latex, markdown, page

NASTY = ResultTable(
    "50 % & more_of <b>it</b>",
    ("Method", "a|b", "±"),
    [("x_{1}", "−3 %", r"back\slash"), ("y", "<i>", "~$#")],
    "A note & <em>so</em>.",
)


class Cells(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.cells, self.open = [], [], False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open = tag in ("td", "th")
        if self.open:
            self.cells.append("")

    def handle_endtag(self, tag):
        self.open = False

    def handle_data(self, data):
        if self.open:
            self.cells[-1] += data


def test_markdown_keeps_its_columns():
    lines = [line for line in markdown([NASTY]).splitlines() if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [4] * 4
    assert lines[1] == "| --- | ---: | ---: |"


def test_html_says_what_was_said_and_nothing_else():
    parser = Cells()
    parser.feed(page("T <1>", [NASTY]))
    assert parser.cells == [*NASTY.head, *(cell for row in NASTY.rows for cell in row)]
    assert not {"b", "i", "em"} & set(parser.tags)


def test_latex_has_no_character_that_means_something_else():
    text = latex([NASTY])
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert rows[0] == r"x\_\{1\} & $-$3 \% & back\textbackslash{}slash \\"
    assert rows[1] == r"y & \textless{}i\textgreater{} & \textasciitilde{}\$\# \\"
    assert r"50 \% \& more\_of \textless{}b" in text
    assert text.count(r"\begin{tabular}{lrr}") == 1
