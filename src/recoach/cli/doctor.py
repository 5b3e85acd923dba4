"""`recoach doctor`: what is installed, what it runs on, what each extra would add."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from typing import Final

from rich.markup import escape
from rich.table import Table

from recoach.cli.console import console

_ADDS: Final = {
    "ann": "faiss: recoach export faiss, recoach serve beyond a million items",
    "duckdb": "logs beyond memory (recoach data prepare --memory)",
    "onnx": "recoach export onnx",
    "pandas": "hands in pandas frames",
    "recbole": "RecBole's YAML (recoach convert-config)",
    "serve": "recoach serve",
    "sim": "simulated customers (recoach reproduce simulator)",
    "spark": "logs beyond one machine (recoach data prepare --spark)",
    "trackers": "TensorBoard, MLflow, Weights & Biases (--report-to)",
    "tune": "recoach search",
}
_MODULES: Final = {"faiss-cpu": "faiss", "pyyaml": "yaml"}
"""Where a distribution's module has another name."""


def doctor() -> None:
    """Show versions, devices and extras; paste it into a report of a problem."""
    import torch  # noqa: PLC0415 (half a second that `recoach --help` need not wait for)

    table = Table(title="Here", show_header=False)
    table.add_row("recoach", importlib.metadata.version("recoach"))
    table.add_row("Python", f"{platform.python_version()} ({sys.executable})")
    table.add_row("system", platform.platform())
    table.add_row("cores", f"{os.cpu_count()}, torch uses {torch.get_num_threads()}")
    devices = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    table.add_row("GPU", ", ".join(devices) or "none: training runs on the CPU")
    bfloat16 = torch.cpu._is_avx512_bf16_supported()
    table.add_row("bfloat16", "in hardware" if bfloat16 else "not in hardware: float32 products")
    for name in ("torch", "numpy", "polars", "scipy", "pydantic", "cyclopts", "safetensors"):
        table.add_row(name, importlib.metadata.version(name))
    console.print(table)
    console.print(_extras())


def _extras() -> Table:
    table = Table(title="Extras")
    for name in ("Extra", "State", "Adds"):
        table.add_column(name, no_wrap=name == "State", overflow="fold")
    needed = extras()
    for extra, adds in _ADDS.items():
        missing = [name for name in needed.get(extra, []) if not _is_there(name)]
        state = "there" if not missing else f"pip install 'recoach[{extra}]'"
        if missing and len(missing) < len(needed[extra]):
            state += f" (missing: {', '.join(missing)})"
        table.add_row(extra, escape(state), adds, style="" if missing else "green")
    return table


def extras() -> dict[str, list[str]]:
    """Return the distributions that each extra of the installed package asks for."""
    found: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("recoach") or []:
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        name = re.match(r"[\w.-]+", line)
        if extra and name:
            found.setdefault(extra[1], []).append(name[0])
    return found


def _is_there(distribution: str) -> bool:
    module = _MODULES.get(distribution, distribution.replace("-", "_"))
    return importlib.util.find_spec(module) is not None
