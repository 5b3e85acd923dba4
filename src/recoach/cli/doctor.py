"""`recoach doctor`: versions, devices, and what each optional extra adds."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from typing import Final

from rich.table import Table

from recoach.cli.console import console

_EXTRAS: Final = {
    "ann": "recoach export faiss, recoach serve with more than a million items",
    "content": "text of the table of items as numbers (recoach update)",
    "duckdb": "logs larger than memory (recoach data prepare --memory)",
    "fronts": "recoach front",
    "onnx": "recoach export onnx",
    "pandas": "pandas DataFrames as interaction logs",
    "recbole": "RecBole's YAML files (recoach convert-config)",
    "serve": "recoach serve",
    "sim": "the simulated environment (recoach reproduce simulator)",
    "spark": "logs larger than one machine (recoach data prepare --spark)",
    "trackers": "TensorBoard, MLflow, Weights & Biases (--report-to)",
    "tune": "recoach search",
}
_MODULES: Final = {"faiss-cpu": "faiss", "pyyaml": "yaml", "scikit-learn": "sklearn"}
"""Module names of the distributions whose module has another name."""


def doctor() -> None:
    """Show versions, devices and optional extras, for example for a bug report."""
    import torch  # noqa: PLC0415 (imports torch; --help does not need it)

    table = Table(title="Installation", show_header=False)
    table.add_row("recoach", importlib.metadata.version("recoach"))
    table.add_row("Python", f"{platform.python_version()} ({sys.executable})")
    table.add_row("system", platform.platform())
    table.add_row("CPU cores", f"{os.cpu_count()}, torch uses {torch.get_num_threads()}")
    devices = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    table.add_row("GPU", ", ".join(devices) or "none, training runs on the CPU")
    bfloat16 = torch.cpu._is_avx512_bf16_supported()
    table.add_row("bfloat16", "supported" if bfloat16 else "not supported, float32 is used")
    for name in ("torch", "numpy", "polars", "scipy", "pydantic", "cyclopts", "safetensors"):
        table.add_row(name, importlib.metadata.version(name))
    console.print(table)
    console.print(_extras())


def _extras() -> Table:
    table = Table(title="Extras")
    for name in ("Extra", "State", "Adds"):
        table.add_column(name, no_wrap=name == "State", overflow="fold")
    required = extras()
    for extra, adds in _EXTRAS.items():
        missing = [name for name in required.get(extra, []) if not _is_installed(name)]
        state = "installed" if not missing else f"pip install 'recoach[{extra}]'"
        if missing and len(missing) < len(required[extra]):
            state += f" (missing: {', '.join(missing)})"
        table.add_row(extra, state, adds, style="" if missing else "green")
    return table


def extras() -> dict[str, list[str]]:
    """Return the distributions that each extra of the installed package requires."""
    requirements: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("recoach") or []:
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        name = re.match(r"[\w.-]+", line)
        if extra and name:
            requirements.setdefault(extra[1], []).append(name[0])
    return requirements


def _is_installed(distribution: str) -> bool:
    module = _MODULES.get(distribution, distribution.replace("-", "_"))
    return importlib.util.find_spec(module) is not None
