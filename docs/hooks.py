"""The site's own: pages that live outside docs/, and links that work there as in the repository."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
BORROWED = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/growth.svg": "growth.svg",
}
"""What a file of the repository is called on the site."""
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:  # noqa: ANN401 - mkdocs' own
    """Add what lies outside docs/."""
    for source, target in _borrowed().items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:  # noqa: ANN401
    """Turn links between files of the repository into links between pages."""
    here = page.file.src_uri
    names = {there: name for name, there in _borrowed().items()}
    folder = posixpath.dirname(names.get(here, f"docs/{here}"))

    def turned(link: re.Match[str]) -> str:
        image, text, target, anchor = link.groups(default="")
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        there = _borrowed().get(path, path.removeprefix("docs/"))
        if there in files.src_uris:
            away = posixpath.relpath(there, posixpath.dirname(here) or ".")
            return f"{image}[{text}]({away}{anchor})"
        if path.startswith("results/") or (ROOT / path).exists():
            return "" if image else text  # in the repository, not on the site
        return link[0]  # a broken link, which the build refuses

    return _LINK.sub(turned, markdown)


def _borrowed() -> dict[str, str]:
    drawn = sorted((ROOT / "results").rglob("*.svg"))
    return BORROWED | {name: name for name in (p.relative_to(ROOT).as_posix() for p in drawn)}
