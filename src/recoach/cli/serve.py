"""`recoach serve`: serve the models of a run over HTTP."""

import contextlib
import hashlib
import os
import socket
from collections.abc import Hashable
from typing import Annotated

from cyclopts import Parameter

from recoach.cli import interrupts
from recoach.cli.console import console, print_service_log
from recoach.cli.options import Decimal, Port, Run
from recoach.data.prepared import MANIFEST
from recoach.errors import ConfigError, RunError
from recoach.experiments.run_folder import RETRAINED, RunFolder
from recoach.experiments.served import load_served, served_checkpoints
from recoach.models.base import DotProductRecommender
from recoach.serving.index import EXACT_UP_TO, build_index, has_faiss
from recoach.serving.snapshot import ModelSnapshot
from recoach.serving.vectors import item_vectors

API_KEY_VARIABLE = "RECOACH_API_KEY"
_STAGES = ("base", "tuned")
_MODEL_FILES = ("model.json", "best.safetensors", "last.safetensors")


def serve(
    path: Run,
    *,
    host: str = "127.0.0.1",
    port: Annotated[Port, Parameter(show_default=True)] = 8000,
    page: bool = True,
    reload_seconds: Decimal = 2.0,
) -> None:
    """Serve the models of a run over HTTP, with a page at / that compares base and tuned.

    If the environment variable RECOACH_API_KEY is set, requests need that key. When the run
    changes, its models are loaded again without losing a request.

    Args:
        host: Address to listen on; 0.0.0.0 for all interfaces.
        port: Port to listen on; 0 selects a free port.
        page: Serve the page, and the search for items and users that it needs.
        reload_seconds: Seconds between checks for changes of the run.
    """
    try:
        import uvicorn  # noqa: PLC0415 - an extra

        from recoach.serving.app import build_app  # noqa: PLC0415
        from recoach.serving.service import Service  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"recoach serve needs {error.name}. Install it: pip install 'recoach[serve]'."
        ) from error
    if reload_seconds <= 0:
        raise ConfigError(f"--reload-seconds must be above 0, not {reload_seconds:g}.")
    folder = RunFolder(path)
    service = Service(
        lambda: read_snapshot(folder), lambda: file_versions(folder), reload_seconds=reload_seconds
    )
    app = build_app(service, api_key=os.environ.get(API_KEY_VARIABLE) or None, page=page)
    server_socket = _listen(host, port)
    print_service_log()
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
        f"Serving {path} ({', '.join(service.snapshot.models)}) at "
        f"http://{host}:{server_socket.getsockname()[1]}/ (API: /docs, stop: Ctrl-C)",
    )
    if service.snapshot.dataset.n_items > EXACT_UP_TO and not has_faiss():
        console.print(
            "Every request scores all items. For an approximate index: pip install 'recoach[ann]'."
        )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again
        uvicorn.Server(config).run(sockets=[server_socket])
    interrupts.clear_stop_request()  # a signal is the normal way to stop the server
    console.print("Stopped.")


def read_snapshot(folder: RunFolder) -> ModelSnapshot:
    """Return the models of a run to serve: the base and, if it is complete, the tuned model.

    Those that were trained again on train and validation take their places.

    Raises:
        RunError: the base is not trained yet, or the run cannot be read.
    """
    folder.config()
    if not folder.is_complete("base"):
        raise RunError(f"{folder.path} has no trained base yet. Finish the run first.")
    stages = [stage for stage in _STAGES if folder.is_complete(stage)]
    digest = hashlib.sha256()
    for path in served_checkpoints(folder, stages):
        digest.update((path / "best.safetensors").read_bytes())
    dataset, loaded = load_served(folder, stages)
    models = dict(zip(stages, loaded, strict=True))
    titles = folder.titles(dataset).to_list()
    indexes = {}
    if dataset.n_items > EXACT_UP_TO and has_faiss():
        indexes = {
            stage: build_index(item_vectors(model, dataset))
            for stage, model in models.items()
            if isinstance(model, DotProductRecommender)
        }
    return ModelSnapshot(dataset, models, titles, digest.hexdigest()[:12], indexes)


def file_versions(folder: RunFolder) -> Hashable:
    """Return time, size and inode of the served files, None for missing ones.

    A changed value means that the models have to be loaded again.
    """
    stages = [*_STAGES, *(f"{stage}{RETRAINED}" for stage in _STAGES)]
    paths = [folder.checkpoints(stage) / name for stage in stages for name in _MODEL_FILES]
    paths += [folder.path / "titles.parquet", folder.dataset / MANIFEST]
    versions: list[tuple[int, int, int] | None] = []
    for file in paths:
        try:
            status = file.stat()
        except OSError:
            versions.append(None)
        else:
            versions.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(versions)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), reuse_port=False, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot listen on {host}:{port} ({reason}). Choose another --host or --port."
        ) from error
