"""`recoach data audit`: what a log holds and what each split of it tests."""

from pathlib import Path

from recoach.cli.console import console
from recoach.cli.data import Filters
from recoach.cli.options import CountOrZero
from recoach.data.filters import apply_filters
from recoach.data.ingest import read_log
from recoach.evaluation.audit import audit as audit_log
from recoach.models.checkpoint import write_atomically
from recoach.report.audit import audit_page, audit_tables
from recoach.report.table_formats import console_table

_ALL_ROWS = Filters()


def audit(
    file: Path,
    /,
    *,
    k_core: CountOrZero = 0,
    html: Path | None = None,
    filters: Filters = _ALL_ROWS,
) -> None:
    """Print what a log holds, what each split of it tests, and what to look out for.

    Args:
        file: An interaction log, as for `recoach data describe`.
        k_core: Keep users and items with at least this many interactions (iterated k-core); 0 keeps
            all.
        html: Also write the page, with figures, to this file.
    """
    config = filters.config(k_core)
    log = read_log(file, config)
    log = apply_filters(log, config)
    found = audit_log(log)
    if html is not None:
        write_atomically(html, audit_page(found, file.name).encode())
    if log.report is not None:
        console.print(log.report.line())
    for sentence in found.advice:
        console.print(f"- {sentence}")
    for table in audit_tables(found):
        console.print(console_table(table))
    if html is not None:
        console.print(f"{html} written")
