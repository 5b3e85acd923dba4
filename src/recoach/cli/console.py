"""Where a person reads: results on one stream, errors on the other."""

from rich.console import Console

console = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)


def shown(example: str) -> str:
    """Return the line below a command's help that shows how it is typed."""
    return f"Example: `{example}`"
