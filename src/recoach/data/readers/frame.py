"""Data frames in memory: pandas, polars, arrow and whatever else narwhals reads."""

from typing import Any

import narwhals as nw

from recoach.data.readers.table import POLARS_ERRORS, Table
from recoach.errors import DataError


def open_frame(source: Any) -> Table:  # noqa: ANN401 - any frame that narwhals reads
    """Return a frame as a table; DataError if it is not a frame or a column mixes types."""
    try:
        frame = nw.from_native(source)
        eager = frame.collect() if isinstance(frame, nw.LazyFrame) else frame
        table = eager.to_polars()
    except (TypeError, ValueError, *POLARS_ERRORS) as error:
        raise DataError(
            f"{type(source).__module__}.{type(source).__name__}: cannot be used as a log "
            f"({str(error).splitlines()[0][:120]}). Pass a path or a pandas, polars or arrow "
            "frame with one type in each column."
        ) from None
    return Table("frame", table.lazy(), tuple(table.columns), lambda row: f"frame, row {row + 1}")
