"""`recoach export`: a run's weights and vectors for other tools."""

from pathlib import Path
from typing import Literal

from cyclopts import App

from recoach.cli.console import console, shown
from recoach.cli.recbole import export_recbole
from recoach.cli.recommend import open_model
from recoach.serving.index import build_index, write_index
from recoach.serving.onnx import export_onnx as write_onnx
from recoach.serving.vectors import export_vectors as write_vectors
from recoach.serving.vectors import item_vectors

app = App(name="export", help="Write a run's weights or vectors for other tools.")
app.command(
    export_recbole,
    name="recbole",
    help_epilogue=shown(
        "recoach export recbole runs/mine --checkpoint saved/model.pth --output saved/tuned.pth"
    ),
)

Stage = Literal["base", "tuned", "control"]


@app.command(name="vectors", help_epilogue=shown("recoach export vectors runs/mine --output out"))
def export_vectors(path: Path, *, output: Path, stage: Stage | None = None) -> None:
    """Write a model's user and item vectors as Parquet; their products are the scores.

    Parameters
    ----------
    path
        A run folder.
    output
        The folder for users.parquet and items.parquet.
    stage
        Which model; the fine-tuned one where there is one, otherwise the base.
    """
    chosen, model, dataset = open_model(path, stage)
    _say(chosen, [*write_vectors(model, dataset, output)])


@app.command(name="faiss", help_epilogue=shown("recoach export faiss runs/mine --output out"))
def export_faiss(path: Path, *, output: Path, stage: Stage | None = None) -> None:
    """Write a model's vectors as Parquet and those of the items as a faiss index.

    The numbers a search gives are rows of items.parquet. Up to a million items the index looks at
    all of them, beyond that at 256 of some thousand inverted lists.

    Parameters
    ----------
    path
        A run folder.
    output
        The folder for users.parquet, items.parquet and items.faiss.
    stage
        Which model; the fine-tuned one where there is one, otherwise the base.
    """
    chosen, model, dataset = open_model(path, stage)
    index = build_index(item_vectors(model, dataset))
    files = [*write_vectors(model, dataset, output), output / "items.faiss"]
    write_index(index, files[-1])
    _say(chosen, files)


@app.command(name="onnx", help_epilogue=shown("recoach export onnx runs/mine --output out"))
def export_onnx(path: Path, *, output: Path, stage: Stage | None = None) -> None:
    """Write the query encoder of a model that reads histories as ONNX, and the vectors as Parquet.

    The file is run with onnxruntime on histories of the log and compared with PyTorch first.

    Parameters
    ----------
    path
        A run folder.
    output
        The folder for query.onnx, users.parquet and items.parquet.
    stage
        Which model; the fine-tuned one where there is one, otherwise the base.
    """
    chosen, model, dataset = open_model(path, stage)
    file, difference = write_onnx(model, dataset, output)
    _say(chosen, [file, *write_vectors(model, dataset, output)])
    console.print(f"onnxruntime and PyTorch differ by at most {difference:.1g}.", highlight=False)


def _say(stage: str, files: list[Path]) -> None:
    names = ", ".join(map(str, files))
    console.print(f"Of the {stage} model: {names}", highlight=False, soft_wrap=True)
