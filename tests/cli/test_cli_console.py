"""What commands print: ids, titles, paths and messages as they are, in one line, on any console."""

import io
import logging

import polars as pl
import pytest
from rich.text import Text

from recoach.cli import console as consoles
from recoach.cli.console import PlainConsole, bold, print_warnings, text_table

NASTY = [
    "user:man:1",
    "[ps4] wheel",
    "[/b]",
    "[link=http://example.org]x[/link]",
    "[bold]",
    "\\[x]",
    "日本語" * 3,
    "שלום",
    "👨‍👩‍👧",
    "%s {0} $x$",
]
ESCAPED = {
    "a\nb": r"a\nb",
    "a\rb": r"a\rb",
    "a\tb": r"a\tb",
    "\x1b[31mred": r"\x1b[31mred",
    "x\x85y\u2028z": r"x\x85y\u2028z",
    "\u202ecod.exe": r"\u202ecod.exe",
}
FOLDER = "[bold]run[2] :man: {x} %41 ~ *?"
SETTINGS = ["pretrain.epochs=1", "model.dim=8", "data.k_core=0", "pretrain.batch_size=8"]


def printed(show, **options):
    """Return what a function prints to a console of 300 columns."""
    target = PlainConsole()
    target.file, target.width = io.StringIO(), 300
    show(target)
    return target.file.getvalue()


@pytest.mark.parametrize("text", NASTY)
def test_a_line_a_cell_and_a_title_hold_the_text_itself(text):
    def table(target):
        cells = text_table("[id]", title=text, caption=text)
        cells.add_row(text)
        target.print(cells)

    assert printed(lambda target: target.print(text)) == f"{text}\n"
    assert printed(lambda target: target.print(bold(text, text))) == f"{text}{text}\n"
    assert text in printed(lambda target: target.rule(text, align="left"))
    lines = printed(table).splitlines()
    assert sum(text in line for line in lines) == 3
    assert any("[id]" in line for line in lines)


@pytest.mark.parametrize("text", ESCAPED)
def test_control_characters_are_escaped_and_do_not_break_a_table(text):
    def table(target):
        cells = text_table("a", "b", title=text)
        cells.add_row(text, "x")
        target.print(cells)

    shown = ESCAPED[text]
    assert printed(lambda target: target.print(text)) == f"{shown}\n"
    assert printed(lambda target: target.print(bold("a", text))) == f"a{shown}\n"
    lines = printed(table).splitlines()
    assert len(lines) == 6
    assert f"│ {shown} │ x │" in " ".join(lines[4].split())


def test_a_long_id_in_a_table_is_wrapped_and_not_cut():
    long_id = "".join(f"{number:03}" for number in range(200))

    def table(target):
        target.width = 80
        cells = text_table("user_id", "item_id")
        cells.add_row(long_id, "x")
        target.print(cells)

    rows = printed(table).splitlines()[3:-1]
    assert "".join(row.split("│")[1].strip() for row in rows) == long_id


def test_a_document_keeps_its_lines_and_its_brackets():
    text = "| [a] |\n\n| :man: |\n"
    assert printed(lambda target: target.print_document(text)) == text + "\n"


def test_styled_text_keeps_its_style_only():
    line = bold("Error:", " [red]x", style="bold red")
    assert isinstance(line, Text)
    assert (line.plain, [span.style for span in line.spans]) == ("Error: [red]x", ["bold red"])


def test_a_warning_is_one_line_without_markup(capsys):
    logger = logging.getLogger("recoach.some")
    with print_warnings():
        logger.warning("%s", "[red]a\nb :man:")
        logger.info("hidden")
    logger.addHandler(logging.NullHandler())
    assert capsys.readouterr().err == "Warning: [red]a\\nb :man:\n"
    assert logging.getLogger("recoach").handlers.count(consoles._handler) == 0


@pytest.fixture(scope="module")
def hostile(recoach, tmp_path_factory):
    """Return the folder of a run whose ids and paths look like markup, and a wide console."""
    folder = tmp_path_factory.mktemp("hostile") / FOLDER
    folder.mkdir()
    users = [*NASTY[:6], *ESCAPED]
    items = [*NASTY, *ESCAPED]
    rows = [(user, items[(n + step) % 16]) for n, user in enumerate(users) for step in range(6)]
    # A line between two line breaks looks like a row of its own, which a reader must refuse.
    rows = [(user, item) for user, item in rows if not ("\n" in user and "\n" in item)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    frame.write_csv(folder / "[b]log :x:.csv")
    titles = pl.DataFrame(
        {"item_id": items, "title": [f"[i]{item}".replace("\n", " ") for item in items]}
    )
    titles.write_csv(folder / "[t]items.csv")
    arguments = ["--set", *SETTINGS, f"data.items='{folder / '[t]items.csv'}'"]
    result = recoach("pretrain", folder / "[b]log :x:.csv", "--output", folder / "b", *arguments)
    assert result.code == 0, result
    assert f"Run folder: {folder / 'b'}." in result.out
    return folder


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setattr(consoles.console, "_width", 400)


@pytest.mark.usefixtures("wide")
def test_lists_show_the_ids_of_the_log(recoach, hostile):
    for user in NASTY[:6]:
        result = recoach("recommend", hostile / "b", "--users", user, "--k", 20)
        assert result.code == 0, result
        rows = [line.strip() for line in result.out.split("│")]
        assert rows.count(user) == 10
    everyone = recoach("recommend", hostile / "b", "--k", 20).out
    for shown in (*NASTY, *ESCAPED.values()):
        assert f"│ {' '.join(shown.split())} │" in everyone


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["data", "describe", "{0}/[b]log :x:.csv"], "│ [b]log :x:.csv │"),
        (["data", "prepare", "{0}/[b]log :x:.csv", "--output", "{0}/p", "--k-core", "0"], "{0}/p:"),
        (["evaluate", "{0}/b"], "Run folder: {0}/b."),
        (["report", "{0}/b"], "Report: {0}/b/report.html"),
        (["finetune", "{0}/b", "--set", "finetune.epochs=1"], "Run folder: {0}/b."),
        (["compare", "{0}/b", "{0}/b", "--metrics", "ndcg@10"], "{0}/b"),
        (["compare", "{0}/b", "{0}/b", "--format", "markdown"], "{0}/b"),
        (["recommend", "{0}/b", "--output", "{0}/x.csv"], "model written to {0}/x.csv"),
        (["export", "vectors", "{0}/b", "--output", "{0}/v"], "{0}/v/users.parquet"),
        (["pretrain", "{0}/b/dataset", "--output", "{0}/c", "--model", "popularity"], "{0}/c."),
        (["demo", "--data", "{0}/gone", "--output", "{0}/d"], "Error: {0}/gone: there is no"),
        (
            ["recommend", "{0}/b", "--users", "[/x] :man:"],
            "Error: --users: '[/x] :man:' is no user",
        ),
        (["run", "{0}/[x].toml"], "Error: Cannot read {0}/[x].toml"),
        (["pretrain", "x", "--output", "y", "--set", "[/b]=1"], "'[/b]'"),
        (["serve", "{0}/gone"], "Error: {0}/gone is not a run folder"),
        (["convert-config", "{0}/[x].yaml"], "Error: Cannot read {0}/[x].yaml"),
    ],
)
def test_every_command_prints_paths_as_they_are(recoach, hostile, arguments, shown):
    result = recoach(*(argument.replace("{0}", str(hostile)) for argument in arguments))
    text = shown.replace("{0}", str(hostile))
    assert text in " ".join((result.out + result.err).split())
    assert result.code == (2 if "Error" in result.err else 0)
    assert "Traceback" not in result.err


def test_the_report_of_a_run_escapes_titles_and_ids(hostile):
    page = (hostile / "b" / "report.html").read_text()
    assert "[i][link=http://example.org]x[/link]" in page
