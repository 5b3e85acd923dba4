"""The versions of a run: what updates made of its model, and which one is served.

RUN/versions/NNNN/ is the run folder of a version: config.toml, env.json, metrics.jsonl, dataset/
and checkpoints/STAGE. versions.json lists the finished ones and names the one that is served; it is
replaced by one rename, so that a version is in the list and served completely or not at all.
Version 0 is the run itself.
"""

import shutil
from typing import Any, NamedTuple

from recoach.errors import RunError
from recoach.experiments.run_folder import RunFolder

VERSIONS = "versions.json"
_FOLDER = "versions"


class History(NamedTuple):
    """The content of versions.json."""

    served: int
    """The version that is served; 0 is the run as it was trained."""
    versions: tuple[dict[str, Any], ...]
    """The records of the finished versions, the earliest first."""

    def record(self, number: int) -> dict[str, Any]:
        """Return the record of a version; empty for version 0."""
        return next((entry for entry in self.versions if entry["version"] == number), {})


def read_history(folder: RunFolder) -> History:
    """Return the versions of a run; none for a run that was never updated.

    Raises:
        RunError: versions.json is damaged.
    """
    if not (folder.path / VERSIONS).exists():
        return History(0, ())
    content = folder.read_json(VERSIONS)
    served, versions = content.get("served"), content.get("versions")
    if not isinstance(served, int) or not isinstance(versions, list):
        raise RunError(f"{folder.path / VERSIONS} is damaged; restore it.")
    return History(served, tuple(versions))


def write_history(folder: RunFolder, history: History) -> None:
    """Write versions.json."""
    folder.write_json(VERSIONS, {"served": history.served, "versions": list(history.versions)})


def version_folder(folder: RunFolder, number: int) -> RunFolder:
    """Return the folder of a version; that of the run for 0."""
    return RunFolder(folder.path / _FOLDER / f"{number:04d}") if number else folder


def served_folder(folder: RunFolder) -> RunFolder:
    """Return the folder of the version that is served.

    Raises:
        RunError: versions.json is damaged, or the version is gone.
    """
    number = read_history(folder).served
    served = version_folder(folder, number)
    if number and not (served.path / "config.toml").exists():
        raise RunError(
            f"{folder.path} serves version {number}, and {served.path} is gone. Restore it, or go "
            f"back: recoach update {folder.path} --rollback."
        )
    return served


def unfinished(folder: RunFolder) -> list[int]:
    """Return the numbers of versions that are not in versions.json, in order."""
    finished = {entry["version"] for entry in read_history(folder).versions}
    parent = folder.path / _FOLDER
    names = [path.name for path in parent.iterdir()] if parent.is_dir() else []
    numbers = {int(name) for name in names if name.isdigit()}
    return sorted(numbers - finished)


def rollback(folder: RunFolder) -> int:
    """Serve the version before the served one again, and return its number.

    The events that were added since stay in the log: the next update takes them.

    Raises:
        RunError: the run as it was trained is served, or the earlier version was removed.
    """
    history = read_history(folder)
    if not history.served:
        raise RunError(f"{folder.path} serves the run as it was trained; there is no way back.")
    earlier = int(history.record(history.served).get("parent", 0))
    if not (version_folder(folder, earlier).path / "config.toml").exists():
        raise RunError(f"{folder.path}: version {earlier} was removed; it cannot be served.")
    write_history(folder, history._replace(served=earlier))
    return earlier


def remove_versions(folder: RunFolder, keep: int) -> None:
    """Remove the folders of all but the latest versions; the served one and its parent stay."""
    history = read_history(folder)
    parent = int(history.record(history.served).get("parent", 0))
    for entry in history.versions[:-keep]:
        number = int(entry["version"])
        if number not in (history.served, parent):
            shutil.rmtree(version_folder(folder, number).path, ignore_errors=True)
