"""Where a person reads: results on one stream, errors on the other."""

from rich.console import Console

console = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)
