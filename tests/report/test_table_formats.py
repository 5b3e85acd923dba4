"""Tables as Markdown, LaTeX and HTML, with cells that contain special characters."""

import html.parser
import re

from recoach.report.table_formats import ResultTable, html_page, latex, markdown

SPECIAL = ResultTable(
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


def test_markdown_escapes_the_column_separator():
    lines = [line for line in markdown([SPECIAL]).splitlines() if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [4] * 4
    assert lines[1] == "| --- | ---: | ---: |"


def test_html_escapes_every_cell():
    parser = Cells()
    parser.feed(html_page("T <1>", [SPECIAL]))
    assert parser.cells == [*SPECIAL.columns, *(cell for row in SPECIAL.rows for cell in row)]
    assert not {"b", "i", "em"} & set(parser.tags)


def test_latex_escapes_every_special_character():
    text = latex([SPECIAL])
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert rows[0] == r"x\_\{1\} & $-$3 \% & back\textbackslash{}slash \\"
    assert rows[1] == r"y & \textless{}i\textgreater{} & \textasciitilde{}\$\# \\"
    assert r"50 \% \& more\_of \textless{}b" in text
    assert text.count(r"\begin{tabular}{lrr}") == 1
