"""The audit of a log: tables for the terminal, and one HTML page with figures."""

import io
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recoach.evaluation.audit import Audit, percent
from recoach.evaluation.log_audit import BURST, OUTLIER, Activity, Drift
from recoach.evaluation.split_audit import CORRELATIONS, SplitAudit
from recoach.report.figures import COLOURS, STYLE
from recoach.report.table_formats import ResultTable, html_page

MISSING: Final = "–"
_COUNTS: Final = {
    "train rows": "train_rows",
    "valid rows": "valid_rows",
    "test rows": "test_rows",
    "train states": "train_states",
    "test users": "test_users",
    "new users": "new_users",
    "evaluated users": "users",
    "test states": "states",
    "targets": "targets",
}
_SHARES: Final = {
    "cold targets": "cold",
    "repeated targets": "repeated",
}


def audit_tables(found: Audit) -> list[ResultTable]:
    """Return the tables of an audit: log, splits, and event types and tenths if there are any."""
    tables = [
        ResultTable("Log", ("", ""), [*_log_rows(found), *_activity_rows(found.activity)]),
        _split_table(found.splits),
    ]
    if found.event_types:
        rows: list[tuple[str, ...]] = [
            (name, f"{count:,}", percent(count / found.rows)) for name, count in found.event_types
        ]
        tables.append(ResultTable("Event types", ("event type", "rows", "share"), rows))
    if found.drift:
        tables.append(_drift_table(found.drift))
    return tables


def audit_page(found: Audit, name: str) -> str:
    """Return the audit of a log as one HTML page that loads nothing from the network."""
    return html_page(
        f"Audit of {name}",
        audit_tables(found),
        lead="\n".join(found.advice),
        picture=_figure_png(found),
    )


def _log_rows(found: Audit) -> list[tuple[str, str]]:
    rows = [
        ("rows", f"{found.rows:,}"),
        ("users", f"{found.users:,}"),
        ("items", f"{found.items:,}"),
        ("density", percent(found.rows / (found.users * found.items))),
        ("identical rows", _count(found.identical_rows, found.rows)),
        ("repeated pairs of user and item", _count(found.repeated_rows, found.rows)),
    ]
    if found.rejected_rows is not None:
        rows.append(("rejected (explicit negatives)", _count(found.rejected_rows, found.rows)))
    if found.sessions is not None:
        rows.append(("sessions", f"{found.sessions:,}"))
    times = found.times
    if times is None:
        return [*rows, ("times", "none: file order")]
    rows += [
        ("first event (UTC)", times.first),
        ("last event (UTC)", times.last),
        ("resolution of times", times.resolution),
        ("rows that share user and time", percent(times.tied)),
    ]
    if times.busiest_minute is not None and times.burst_users is not None:
        rows += [
            ("most events of a user in a minute", f"{times.busiest_minute:,}"),
            (f"users with {BURST} events or more in a minute", f"{times.burst_users:,}"),
        ]
    if found.leak is not None:
        rows.append(("leave-last-out targets before the .9 quantile", percent(found.leak)))
    return rows


def _activity_rows(activity: Activity) -> list[tuple[str, str]]:
    quantiles = ", ".join(f"{value:,.0f}" for value in activity.lengths)
    return [
        ("events per user: 0, 25, 50, 75, 95, 100 %", quantiles),
        ("users with one event", f"{activity.single:,}"),
        (
            f"users with {OUTLIER} × the 95 % quantile",
            f"{activity.outliers:,} ({percent(activity.outlier_rows)} of the rows)",
        ),
        ("rows of the most active user", percent(activity.largest_user)),
        ("rows of the most popular item", percent(activity.largest_item)),
        ("rows of the 1 % most popular items", percent(activity.top_1)),
        ("rows of the 20 % most popular items", percent(activity.top_20)),
        ("Gini coefficient of items", f"{activity.gini:.2f}"),
        ("items with one event", f"{activity.single_items:,}"),
    ]


def _split_table(splits: tuple[SplitAudit, ...]) -> ResultTable:
    """Return a table with a column for each split."""
    baselines = list(dict.fromkeys(name for split in splits for name, _ in split.hit_rates))
    rows = [
        (label, *(MISSING if split.problem else f"{getattr(split, key):,}" for split in splits))
        for label, key in _COUNTS.items()
    ]
    rows += [
        (label, *(MISSING if split.problem else percent(getattr(split, key)) for split in splits))
        for label, key in _SHARES.items()
    ]
    rows += [
        (f"hit@10 {name}", *(_rate(dict(split.hit_rates).get(name)) for split in splits))
        for name in baselines
    ]
    for label, key in (
        ("detects, models", "detectable"),
        ("detects, tuned", "detectable_tuned"),
    ):
        relative = [split.relative(getattr(split, key)) for split in splits]
        rows.append((label, *(MISSING if one is None else percent(one) for one in relative)))
    problems = dict.fromkeys(f"{split.name}: {split.problem}" for split in splits if split.problem)
    note = (
        "New users and cold targets have no event before test; users are evaluated who have a "
        "history. hit@10: hit rate@10 of a simple baseline. Detects: the relative difference in "
        "hit rate@10 that is found with 80 % probability (two-sided, 5 %), at the hit rate of the "
        "best baseline; the hits of two models "
        f"are taken to correlate by {CORRELATIONS[0]:g}, those of a model and its fine-tuned "
        f'version by {CORRELATIONS[1]:g}. Targets are counted with repeats = "all".'
    )
    columns = ("", *(split.name for split in splits))
    return ResultTable("What each split tests", columns, rows, " ".join([note, *problems]))


def _drift_table(drift: Drift) -> ResultTable:
    rows: list[tuple[str, ...]] = [
        (
            tenth.first,
            percent(tenth.new_users),
            percent(tenth.new_items),
            MISSING if tenth.distance is None else f"{tenth.distance:.2f}",
        )
        for tenth in drift.tenths
    ]
    note = (
        "A row is a tenth of the log. Distance: Jensen-Shannon distance of the items from those of "
        f"the tenth before, 0 to 1; {drift.shuffled_distance:.2f} after shuffling."
    )
    columns = ("begins", "rows of new users", "rows of new items", "distance")
    return ResultTable("Change over time", columns, rows, note)


def _count(count: int, total: int) -> str:
    return f"{count:,} ({percent(count / total)})"


def _rate(rate: float | None) -> str:
    return MISSING if rate is None else f"{rate:.4f}"


def _figure_png(found: Audit) -> bytes:
    """Return a PNG of the popularity of items, the lengths of histories and the change in time."""
    image = io.BytesIO()
    n_panels = 3 if found.drift else 2
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * n_panels, 3.8), layout="constrained")
        _popularity_panel(figure.add_subplot(1, n_panels, 1), found.activity)
        _length_panel(figure.add_subplot(1, n_panels, 2), found.activity)
        if found.drift:
            _change_panel(figure.add_subplot(1, n_panels, 3), found.drift)
        FigureCanvasAgg(figure).print_png(image)  # type: ignore[no-untyped-call]
    return image.getvalue()


def _popularity_panel(axes: Axes, activity: Activity) -> None:
    shares = 100 * np.array(activity.popularity)
    axes.plot(np.linspace(0, 100, len(shares)), shares, color=COLOURS["tuned"])
    axes.plot([0, 100], [0, 100], ":", color=COLOURS["base"])
    axes.set_title("Popularity of items")
    axes.set_xlabel("most popular items, %")
    axes.set_ylabel("rows, %")


def _length_panel(axes: Axes, activity: Activity) -> None:
    names = [str(low) if low == high else f"{low}–{high}" for low, high, _ in activity.histogram]
    counts = [users for _, _, users in activity.histogram]
    axes.bar(range(len(names)), counts, color=COLOURS["tuned"])
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=9)
    axes.grid(visible=False, axis="x")
    axes.set_title("Events per user")
    axes.set_ylabel("users")


def _change_panel(axes: Axes, drift: Drift) -> None:
    places = np.arange(1, len(drift.tenths) + 1)
    for label, values, colour, line in (
        ("rows of new users", [tenth.new_users for tenth in drift.tenths], "tuned", "-"),
        ("rows of new items", [tenth.new_items for tenth in drift.tenths], "control", "--"),
    ):
        axes.plot(places[1:], 100 * np.array(values[1:]), line, color=COLOURS[colour], label=label)
    axes.set_title("Change over time")
    axes.set_xlabel("tenth of the log")
    axes.set_ylabel("%")
    axes.set_ylim(bottom=0)
    axes.legend(loc="best")
