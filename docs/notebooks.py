"""Write the notebooks of examples/ from the tutorial pages, so that the two cannot differ.

Run `python docs/notebooks.py` from the project's root after changing a tutorial.
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TUTORIALS = (
    "improve-a-recbole-model",
    "improve-your-own-pytorch-model",
    "a-shop-with-views-carts-and-purchases",
)
_BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```\n", re.M | re.S)
_POINTER = re.compile(r"The page is also a notebook,\s+\[[^\]]*\]\([^)]*\)\.\n")


def notebook(name: str) -> str:
    """Return the notebook of a tutorial as JSON text.

    Text becomes Markdown cells, Python blocks code cells, and lines of `sh` blocks code cells that
    begin with "!". Links are rewritten from docs/tutorials/ to examples/.
    """
    text = (ROOT / "docs" / "tutorials" / f"{name}.md").read_text()
    pointer = f"This notebook is the tutorial page [{name}](../docs/tutorials/{name}.md).\n"
    text = _POINTER.sub(pointer, text)
    text = re.sub(r"\]\(([\w-]+\.md)", r"](../docs/tutorials/\1", text)
    text = re.sub(r"\]\(\.\./(?!\.\./|docs/)", "](../docs/", text).replace("](../../", "](../")
    cells, end = [], 0
    for block in _BLOCK.finditer(text):
        cells.append(_cell("markdown", text[end : block.start()]))
        cells.append(_cell("code", block[2] if block[1] == "python" else _commands(block[2])))
        end = block.end()
    cells.append(_cell("markdown", text[end:]))
    cells = [cell | {"id": f"cell-{n}"} for n, cell in enumerate(c for c in cells if c["source"])]
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    content = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _commands(block: str) -> str:
    return "".join(f"!{line}\n" for line in block.replace("\\\n", " ").splitlines())


def _cell(kind: str, text: str) -> dict[str, Any]:
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {
        "cell_type": kind,
        "metadata": {},
        "source": text.strip().splitlines(keepends=True),
    } | code


if __name__ == "__main__":
    for name in TUTORIALS:
        (ROOT / "examples" / f"{name}.ipynb").write_text(notebook(name))
