"""`recoach serve`: a run behind HTTP."""

import contextlib
import hashlib
import logging
import os
import socket
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from recoach.cli import interrupts
from recoach.cli.console import console
from recoach.data.prepared import MANIFEST, load_dataset
from recoach.errors import ConfigError, RunError
from recoach.experiments.run_folder import RunFolder
from recoach.models.checkpoint import load_model
from recoach.serving.index import EXACT_UP_TO, build_index, has_faiss
from recoach.serving.snapshot import ModelSnapshot
from recoach.serving.vectors import item_vectors

KEY = "RECOACH_API_KEY"
_STAGES = ("base", "tuned")
_FILES = ("model.json", "best.safetensors", "last.safetensors")


def serve(
    path: Path,
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(show_default=True)] = 8000,
    page: bool = True,
    reload_seconds: float = 2.0,
) -> None:
    """Serve the models of a run over HTTP, with a page at / that shows base and tuned.

    Where the environment variable RECOACH_API_KEY is set, callers must show that key. A run that
    changes while it is served is read anew; no request is lost.

    Parameters
    ----------
    path
        A run folder.
    host
        Address to listen at; 0.0.0.0 for all of them.
    port
        Port to listen at; 0 takes a free one.
    page
        Offer the page, and the look-up of items and users that it needs.
    reload_seconds
        How often to look whether the run has changed.
    """
    try:
        import uvicorn  # noqa: PLC0415 - an extra

        from recoach.serving.app import build_app  # noqa: PLC0415
        from recoach.serving.service import Service  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"serving needs {error.name}; install it with pip install 'recoach[serve]'."
        ) from error
    if reload_seconds <= 0:
        raise ConfigError(f"--reload-seconds must be above 0, not {reload_seconds:g}.")
    folder = RunFolder(path)
    service = Service(
        lambda: read_snapshot(folder), lambda: stamp(folder), reload_seconds=reload_seconds
    )
    app = build_app(service, api_key=os.environ.get(KEY) or None, page=page)
    listening = _listen(host, port)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=15,
        h11_max_incomplete_event_size=65_536,
    )
    console.print(
        f"{path} ({', '.join(service.snapshot.models)}) at "
        f"http://{host}:{listening.getsockname()[1]}/ ; docs at /docs, Ctrl-C stops",
        highlight=False,
    )
    if service.snapshot.dataset.n_items > EXACT_UP_TO and not service.snapshot.faiss_indexes:
        console.print(
            "Every list looks at all items; pip install 'recoach[ann]' makes it quicker.",
            markup=False,
        )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises again the signal that ended it
        uvicorn.Server(config).run(sockets=[listening])
    interrupts.forget()  # it was asked to end and has ended well
    console.print("Stopped.")


def read_snapshot(folder: RunFolder) -> ModelSnapshot:
    """Return what a run has to serve: its base and, where it is there and whole, its tuned model.

    Raises:
        RunError: the base is not trained yet, or the run cannot be read.
    """
    folder.config()
    if not folder.is_complete("base"):
        raise RunError(f"{folder.path} has no trained base yet; finish the run first.")
    stages = [stage for stage in _STAGES if folder.is_complete(stage)]
    dataset = load_dataset(folder.dataset)
    digest = hashlib.sha256()
    for stage in stages:
        digest.update((folder.checkpoints(stage) / "best.safetensors").read_bytes())
    models = {stage: load_model(folder.checkpoints(stage), dataset) for stage in stages}
    titles = folder.titles(dataset.item_ids).to_list()
    indexes = {}
    if dataset.n_items > EXACT_UP_TO and has_faiss():
        indexes = {
            stage: build_index(item_vectors(model, dataset)) for stage, model in models.items()
        }
    return ModelSnapshot(dataset, models, titles, digest.hexdigest()[:12], indexes)


def stamp(folder: RunFolder) -> Hashable:
    """Return what changes with the files that are served; missing files count too."""
    paths = [folder.checkpoints(stage) / name for stage in _STAGES for name in _FILES]
    paths += [folder.path / "titles.parquet", folder.dataset / MANIFEST]
    found: list[tuple[int, int, int] | None] = []
    for file in paths:
        try:
            there = file.stat()
        except OSError:
            found.append(None)
        else:
            found.append((there.st_mtime_ns, there.st_size, there.st_ino))
    return tuple(found)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), reuse_port=False, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot listen at {host}:{port} ({reason}); choose another --host or --port."
        ) from error
