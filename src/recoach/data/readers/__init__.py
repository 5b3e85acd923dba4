"""File formats of interaction logs: one module a format, listed in `registry`."""
