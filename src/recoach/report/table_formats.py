"""Tables as Markdown, LaTeX and HTML: the same cells three times."""

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
    """One table: a heading, the columns' names, rows of text, a note below."""

    heading: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


def markdown(grids: Iterable[ResultTable]) -> str:
    """Return the tables as Markdown; first columns left, the others right."""
    parts = []
    for grid in grids:
        rule = ["---", *("---:" for _ in grid.head[1:])]
        rows = [grid.head, rule, *grid.rows]
        cells = [[cell.replace("|", r"\|") for cell in row] for row in rows]
        lines = [f"| {' | '.join(row)} |" for row in cells]
        parts.append("\n".join([f"### {grid.heading}", "", *lines]))
        if grid.note:
            parts.append(grid.note)
    return "\n\n".join(parts) + "\n"


def latex(grids: Iterable[ResultTable]) -> str:
    """Return the tables as LaTeX with booktabs' rules."""
    parts = []
    for grid in grids:
        rows = [" & ".join(_tex(cell) for cell in row) + r" \\" for row in grid.rows]
        parts += [
            r"\begin{table}",
            rf"\caption{{{_tex(grid.heading)}. {_tex(grid.note)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(grid.head) - 1)}}}",
            r"\toprule",
            " & ".join(_tex(name) for name in grid.head) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    return "\n".join(parts)


def page(title: str, grids: Iterable[ResultTable], *, lead: str = "", picture: bytes = b"") -> str:
    """Return the tables as one self-contained HTML page, below a paragraph and a PNG."""
    body = "\n".join(_html(grid) for grid in grids)
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


def _html(grid: ResultTable) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in grid.head)
    rows = "\n".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in grid.rows
    )
    return (
        f"<h2>{html.escape(grid.heading)}</h2>\n<div class=wide><table><thead><tr>{head}</tr>"
        f"</thead><tbody>\n{rows}\n</tbody></table></div>\n<p>{html.escape(grid.note)}</p>"
    )


def _tex(text: str) -> str:
    return text.translate(_LATEX)
