"""The consoles of the command line: `console` writes to stdout, `errors` to stderr."""

from rich.console import Console

console = Console(soft_wrap=True, highlight=False)
errors = Console(stderr=True, soft_wrap=True, highlight=False)


def example_line(command: str) -> str:
    """Return the line of a command's help that shows an example."""
    return f"Example: `{command}`"
