"""Render result tables as Markdown, LaTeX and HTML, and in the terminal."""

import base64
from collections.abc import Iterable
from importlib.resources import files
from typing import Final, NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.table import Table

_PARTS: Final = {"style": "report.css", "script": "report.js"}
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
        lines = [table.columns, *table.rows]
        head, *rows = [
            " & ".join(cell.translate(_LATEX) for cell in line) + r" \\" for line in lines
        ]
        caption = f"{table.heading}. {table.note}".translate(_LATEX)
        parts += [
            r"\begin{table}",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
            r"\toprule",
            head,
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
    """Return one self-contained HTML page: title, lead, PNG picture, then the tables.

    Each line of the lead is a paragraph.
    """
    encoded = base64.b64encode(picture).decode()
    return render("tables.html.j2", title=title, tables=tables, lead=lead, picture=encoded)


def page_parts() -> dict[str, Markup]:
    """Return the style sheet and the script of a report, to be written into its page."""
    return {name: Markup(_package_text(file)) for name, file in _PARTS.items()}


def render(template: str, **values: object) -> str:
    """Return a template of this package with its values; they are escaped unless marked as safe."""
    source = _package_text(template)
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return page.from_string(source).render(values)


def _package_text(name: str) -> str:
    return files("recoach.report").joinpath(name).read_text(encoding="utf-8")


def console_table(table: ResultTable) -> Table:
    """Return a table for the terminal; the first column is left-aligned, the others right."""
    console = Table(title=table.heading, caption=table.note)
    for index, name in enumerate(table.columns):
        console.add_column(name, justify="right" if index else "left")
    for row in table.rows:
        console.add_row(*row)
    return console
