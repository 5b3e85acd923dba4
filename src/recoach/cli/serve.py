"""`recoach serve`: serve the models of a run over HTTP."""

import contextlib
import hashlib
import os
import socket
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from recoach.cli import interrupts
from recoach.cli.console import console, print_service_log, print_warnings
from recoach.cli.options import Count, Decimal, Port, Words
from recoach.cli.reranking import rerank_config
from recoach.data.prepared import MANIFEST
from recoach.errors import ConfigError, RunError
from recoach.experiments.run_folder import RETRAINED, RunFolder
from recoach.experiments.served import load_served, served_checkpoints, served_stages
from recoach.experiments.versions import VERSIONS, served_folder
from recoach.models.base import DotProductRecommender
from recoach.rerank.config import RerankConfig
from recoach.serving.access import allowed_hosts, check_public, checked_key
from recoach.serving.exploration import ServedPolicy
from recoach.serving.exposures import ExposureLog
from recoach.serving.index import EXACT_UP_TO, build_index, has_faiss
from recoach.serving.reranking import ListReranker
from recoach.serving.snapshot import ModelSnapshot
from recoach.serving.split import Split
from recoach.serving.vectors import item_vectors

if TYPE_CHECKING:
    from recoach.serving.processes import Target
    from recoach.serving.service import Service
    from recoach.serving.shadow import ShadowQueue

API_KEY_VARIABLE = "RECOACH_API_KEY"
SALT_VARIABLE = "RECOACH_SALT"
_STAGES = ("base", "tuned", "control")
_MODEL_FILES = ("model.json", "best.safetensors", "last.safetensors")


@dataclass(frozen=True)
class ServeOptions:
    """What a process serves and how."""

    runs: Mapping[str, Path]
    """Folder of each run by name; the first one is shown by the page."""
    split: Split
    salt: str
    policy: ServedPolicy
    exposure_log: Path | None
    shadow: Path | None
    rerank: RerankConfig | None
    page: bool
    reload_seconds: float
    drain_seconds: float
    api_key: str | None
    allowed_hosts: Sequence[str]


def serve(
    *runs: Annotated[Path, Parameter(help="Run folders.", required=True)],
    split: Annotated[str | None, Parameter(negative="")] = None,
    salt: Annotated[str, Parameter(env_var=SALT_VARIABLE)] = "recoach",
    shadow: Path | None = None,
    explore: Decimal | None = None,
    rerank: Words = None,
    exposure_log: Path | None = None,
    host: str = "127.0.0.1",
    allowed_host: Words = None,
    no_key: Annotated[bool, Parameter(negative="")] = False,
    port: Annotated[Port, Parameter(show_default=True)] = 8000,
    page: bool = True,
    reload_seconds: Decimal = 2.0,
    workers: Annotated[Count, Parameter(show_default=True)] = 1,
    drain_seconds: Decimal = 2.0,
) -> None:
    """Serve the models of runs over HTTP, with a page at / that compares base and tuned.

    If the environment variable RECOACH_API_KEY is set, requests need that key; without it the
    service listens on this machine only, unless --no-key is given. When a run
    changes, its models are loaded again without losing a request.

    Args:
        split: Shares of the users that each of several runs answers, like 0.9,0.1. Default: equal
            shares.
        salt: Of the hashes that assign users to runs and stand for histories in logs.
        shadow: Another run that ranks the requests after they are answered; its lists are only
            logged.
        explore: Temperature of a stochastic policy that samples lists from the 100 best items;
            without it the best items are shown.
        rerank: Choose each list with a re-ranker, like by=mmr knob=0.3; see `recoach rerank`.
        exposure_log: Folder for the log of the lists that were shown.
        host: Address to listen on; 0.0.0.0 for all interfaces.
        allowed_host: Host names that requests may be addressed to, like api.example.com. Default:
            the local names for a local address, all for others.
        no_key: Serve everybody who can reach the address.
        port: Port to listen on; 0 selects a free port.
        page: Serve the page, and the search for items and users that it needs.
        reload_seconds: Seconds between checks for changes of the runs.
        workers: Processes that share the address; each one holds the models.
        drain_seconds: Seconds between SIGTERM and the last accepted request.
    """
    try:
        import uvicorn  # noqa: F401, PLC0415 - an extra

        from recoach.serving import app, metrics, processes  # noqa: F401, PLC0415
    except ImportError as error:
        raise ConfigError(
            f"recoach serve needs {error.name}. Install it: pip install 'recoach[serve]'."
        ) from error
    if reload_seconds <= 0:
        raise ConfigError(f"--reload-seconds must be above 0, not {reload_seconds:g}.")
    if not 0 <= drain_seconds <= 600:
        raise ConfigError(f"--drain-seconds must be between 0 and 600, not {drain_seconds:g}.")
    if shadow is not None and exposure_log is None:
        raise ConfigError("--shadow needs --exposure-log, where its lists are logged.")
    api_key = checked_key(os.environ.get(API_KEY_VARIABLE), API_KEY_VARIABLE)
    check_public(host, has_key=api_key is not None, no_key=no_key)
    names, config = _run_names(runs), rerank_config(rerank)
    options = ServeOptions(
        runs=names,
        split=Split(_shares(list(names), split), salt),
        salt=salt,
        policy=ServedPolicy(explore, "" if config is None else f"{config.by}({config.knob:g})"),
        rerank=config,
        exposure_log=exposure_log,
        shadow=shadow,
        page=page,
        reload_seconds=reload_seconds,
        drain_seconds=drain_seconds,
        api_key=api_key,
        allowed_hosts=allowed_hosts(host, allowed_host or ()),
    )
    with contextlib.suppress(KeyboardInterrupt), _listen(host, port) as server_socket:
        address = f"http://{host}:{server_socket.getsockname()[1]}/"

        def report(description: str) -> None:
            console.print(f"Serving {description} at {address} (API: /docs, stop: Ctrl-C)")

        with _shadow(options) as jobs:
            serve_process = partial(serve_at, server_socket, options, jobs)
            if workers == 1:
                serve_process(report)
            else:
                with metrics.shared_metrics():
                    processes.run_workers(partial(_in_child, serve_process), workers, report)
    interrupts.clear_stop_request()  # a signal is the normal way to stop the server
    console.print("Stopped.")


def serve_at(
    server_socket: socket.socket,
    options: ServeOptions,
    jobs: "ShadowQueue | None",
    report: Callable[[str], None],
) -> None:
    """Serve at a socket until a signal arrives.

    Args:
        server_socket: a listening socket.
        options: what to serve.
        jobs: receives the requests for the shadow.
        report: is called with a description of the models when they are read.
    """
    from recoach.serving.app import build_app  # noqa: PLC0415
    from recoach.serving.metrics import EXPOSURES  # noqa: PLC0415
    from recoach.serving.routing import Routing  # noqa: PLC0415
    from recoach.serving.server import DrainingServer  # noqa: PLC0415

    exposures = None
    if options.exposure_log is not None:
        exposures = ExposureLog(
            options.exposure_log, count=lambda outcome, n: EXPOSURES.labels(outcome).inc(n)
        )
    routing = Routing(
        {run: _service(run, path, options) for run, path in options.runs.items()},
        split=options.split,
        salt=options.salt,
        policy=options.policy,
        exposures=exposures,
        shadow=jobs,
    )
    app = build_app(
        routing,
        api_key=options.api_key,
        page=options.page,
        allowed_hosts=options.allowed_hosts,
    )
    print_service_log()
    for service in routing.services.values():
        reranker = service.snapshot.rerankers.get(service.snapshot.default_model)
        if reranker is not None:
            added = f"{reranker.name} adds {reranker.milliseconds:.2f} ms to a list (median)."
            console.print(added)
    descriptions = [
        f"{options.runs[run]} ({', '.join(service.snapshot.models)})"
        for run, service in routing.services.items()
    ]
    report(", ".join(descriptions))
    sizes = [service.snapshot.dataset.n_items for service in routing.services.values()]
    if max(sizes) > EXACT_UP_TO and not has_faiss():
        console.print(
            "Every request scores all items. For an approximate index: pip install 'recoach[ann]'."
        )
    DrainingServer(app, routing, options.drain_seconds).run(sockets=[server_socket])


def _in_child(target: "Target", report: Callable[[str], None]) -> None:
    """Do the work of a process that the command started, and print its warnings."""
    with print_warnings():
        target(report)


@contextlib.contextmanager
def _shadow(options: ServeOptions) -> Iterator["ShadowQueue | None"]:
    """Run the shadow, if there is one, and return the queue of its requests."""
    from recoach.serving.shadow import ShadowQueue, shadow_process  # noqa: PLC0415

    if options.shadow is None:
        yield None
        return
    jobs = ShadowQueue()
    with shadow_process(partial(_in_child, partial(_serve_shadow, options, jobs))):
        yield jobs


def _serve_shadow(
    options: ServeOptions, jobs: "ShadowQueue", report: Callable[[str], None]
) -> None:
    from recoach.serving.shadow import run_shadow  # noqa: PLC0415

    if options.shadow is not None and options.exposure_log is not None:
        service = _service(options.shadow.name, options.shadow, options)
        log = ExposureLog(options.exposure_log, name="shadow")
        report(str(options.shadow))
        run_shadow(options.shadow.name, service, log, jobs)


def _service(run: str, path: Path, options: ServeOptions) -> "Service":
    from recoach.serving.service import Service  # noqa: PLC0415

    folder = RunFolder(path)
    return Service(
        lambda: read_snapshot(folder, options.rerank),
        lambda: file_versions(folder),
        run=run,
        reload_seconds=options.reload_seconds,
    )


def _run_names(paths: Sequence[Path]) -> dict[str, Path]:
    """Return the run folders by name: as many last parts of the paths as tell them apart.

    Raises:
        ConfigError: a run is given twice.
    """
    folders = [path.resolve() for path in paths]
    if len(set(folders)) < len(folders):
        raise ConfigError(f"A run is given twice: {', '.join(map(str, paths))}. Give each once.")
    for n_parts in range(1, 1 + max(len(folder.parts) for folder in folders)):
        names = ["/".join(folder.parts[-n_parts:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, paths, strict=True))


def _shares(names: Sequence[str], split: str | None) -> dict[str, float]:
    """Return the share of each run.

    Raises:
        ConfigError: `split` is not one number for each run.
    """
    if split is None:
        return {name: 1 / len(names) for name in names}
    try:
        shares = [float(part) for part in split.split(",")]
    except ValueError:
        raise ConfigError(f"--split must be numbers like 0.9,0.1, not {split!r}.") from None
    if len(shares) != len(names):
        raise ConfigError(
            f"--split {split} has {len(shares)} shares for {len(names)} runs. Give one for each."
        )
    return dict(zip(names, shares, strict=True))


def read_snapshot(folder: RunFolder, rerank: RerankConfig | None = None) -> ModelSnapshot:
    """Return the models of a run to serve: the base and, if it is complete, the tuned model.

    Continued training is a third one, the default, where it is the best of them on validation.
    Those that were trained again on train and validation take their places. A run that was updated
    serves the model of its served version.

    Args:
        folder: of the run.
        rerank: the settings of a re-ranker of all models; None shows the best items.

    Raises:
        RunError: the base is not trained yet, or the run cannot be read.
        ConfigError: the data lack what the re-ranker reads.
    """
    folder.config()
    served = served_folder(folder)
    stages = served_stages(served)
    if not stages or (served is folder and "base" not in stages):
        raise RunError(f"{folder.path} has no trained base yet. Finish the run first.")
    folder = served
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
    rerankers = {}
    if rerank is not None:
        rerankers = {stage: ListReranker(rerank, model, dataset) for stage, model in models.items()}
    return ModelSnapshot(dataset, models, titles, digest.hexdigest()[:12], indexes, rerankers)


def file_versions(folder: RunFolder) -> Hashable:
    """Return time, size and inode of the served files, None for missing ones.

    A changed value means that the models have to be loaded again.
    """
    stages = [*_STAGES, *(f"{stage}{RETRAINED}" for stage in _STAGES)]
    history = folder.path / VERSIONS
    with contextlib.suppress(RunError):  # the attempt to load the models reports it
        folder = served_folder(folder)
    paths = [folder.checkpoints(stage) / name for stage in stages for name in _MODEL_FILES]
    paths += [folder.path / "titles.parquet", folder.dataset / MANIFEST, history]
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
