"""Render result tables as Markdown, LaTeX and HTML."""

import base64
import html
from collections.abc import Iterable
from typing import Final, NamedTuple

_LATEX: Final = str.maketrans(
    {
        "&": r"\&",
        "%": r"\%",
        "#": r"\#",
        "_": r"\_",
        "$": r"\$",
        "{": r"\{",
        "}": r"\}",
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "|": r"\textbar{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "−": "$-$",
        "±": r"$\pm$",
        "×": r"$\times$",
        "–": "--",
        "\N{NO-BREAK SPACE}": "~",
    }
)


class ResultTable(NamedTuple):
    """A table of text: heading, column names, rows and a note below the table."""

    heading: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


def markdown(tables: Iterable[ResultTable]) -> str:
    """Return the tables as Markdown; the first column is left-aligned, the others right-aligned."""
    parts = []
    for table in tables:
        rule = ["---", *("---:" for _ in table.columns[1:])]
        rows = [table.columns, rule, *table.rows]
        cells = [[cell.replace("|", r"\|") for cell in row] for row in rows]
        lines = [f"| {' | '.join(row)} |" for row in cells]
        parts.append("\n".join([f"### {table.heading}", "", *lines]))
        if table.note:
            parts.append(table.note)
    return "\n\n".join(parts) + "\n"


def latex(tables: Iterable[ResultTable]) -> str:
    """Return the tables as LaTeX with the rules of booktabs."""
    parts = []
    for table in tables:
        rows = [" & ".join(_escape_latex(cell) for cell in row) + r" \\" for row in table.rows]
        parts += [
            r"\begin{table}",
            rf"\caption{{{_escape_latex(table.heading)}. {_escape_latex(table.note)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
            r"\toprule",
            " & ".join(_escape_latex(name) for name in table.columns) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    return "\n".join(parts)


def html_page(
    title: str, tables: Iterable[ResultTable], *, lead: str = "", picture: bytes = b""
) -> str:
    """Return one self-contained HTML page: title, lead paragraph, PNG picture, then the tables."""
    body = "\n".join(_html_table(table) for table in tables)
    if picture:
        encoded = base64.b64encode(picture).decode()
        body = f'<p><img alt="" src="data:image/png;base64,{encoded}"></p>\n{body}'
    if lead:
        body = f"<p>{html.escape(lead)}</p>\n{body}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )


_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "img{max-width:100%}.wide{overflow-x:auto}table{border-collapse:collapse;white-space:nowrap}"
    "th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd}"
    "th:first-child,td:first-child{text-align:left}"
)


def _html_table(table: ResultTable) -> str:
    header = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
    rows = "\n".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows
    )
    return (
        f"<h2>{html.escape(table.heading)}</h2>\n<div class=wide><table><thead><tr>{header}</tr>"
        f"</thead><tbody>\n{rows}\n</tbody></table></div>\n<p>{html.escape(table.note)}</p>"
    )


def _escape_latex(text: str) -> str:
    return text.translate(_LATEX)
