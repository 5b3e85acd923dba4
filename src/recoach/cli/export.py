"""`recoach export`: write the weights or vectors of a run for other tools."""

from pathlib import Path

from cyclopts import App

from recoach.cli.console import console, example_line
from recoach.cli.options import Run, Stage
from recoach.cli.recbole import export_recbole
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.served import open_model
from recoach.serving.index import build_index, write_index
from recoach.serving.onnx import export_onnx as write_onnx
from recoach.serving.vectors import export_vectors as write_vectors
from recoach.serving.vectors import item_vectors

app = App(name="export", help="Export weights or vectors for other tools.", help_format="markdown")
app.command(
    export_recbole,
    name="recbole",
    help_epilogue=example_line(
        "recoach export recbole runs/mine --checkpoint saved/model.pth --output saved/tuned.pth"
    ),
)


@app.command(
    name="vectors", help_epilogue=example_line("recoach export vectors runs/mine --output out")
)
def export_vectors(path: Run, *, output: Path, stage: Stage = None) -> None:
    """Write the user and item vectors of a model as Parquet; their dot products are the scores.

    Args:
        output: The folder for users.parquet and items.parquet.
    """
    selected, model, dataset = open_model(RunFolder(path), stage)
    _print_files(selected, [*write_vectors(model, dataset, output)])


@app.command(
    name="faiss", help_epilogue=example_line("recoach export faiss runs/mine --output out")
)
def export_faiss(path: Run, *, output: Path, stage: Stage = None) -> None:
    """Write the vectors of a model as Parquet and the item vectors as a faiss index.

    The ids in the index are row numbers of items.parquet. Up to a million items the search is
    exact; above that it probes 256 of a few thousand inverted lists.

    Args:
        output: The folder for users.parquet, items.parquet and items.faiss.
    """
    selected, model, dataset = open_model(RunFolder(path), stage)
    index = build_index(item_vectors(model, dataset))
    files = [*write_vectors(model, dataset, output), output / "items.faiss"]
    write_index(index, files[-1])
    _print_files(selected, files)


@app.command(name="onnx", help_epilogue=example_line("recoach export onnx runs/mine --output out"))
def export_onnx(path: Run, *, output: Path, stage: Stage = None) -> None:
    """Write the query encoder of a sequential model as ONNX, and the vectors as Parquet.

    The ONNX file is checked first: onnxruntime and PyTorch are compared on histories of the log.

    Args:
        output: The folder for query.onnx, users.parquet and items.parquet.
    """
    selected, model, dataset = open_model(RunFolder(path), stage)
    file, difference = write_onnx(model, dataset, output)
    _print_files(selected, [file, *write_vectors(model, dataset, output)])
    console.print(f"onnxruntime and PyTorch differ by at most {difference:.1g}.")


def _print_files(stage: str, files: list[Path]) -> None:
    console.print(f"Exported the {stage} model: {', '.join(map(str, files))}")
