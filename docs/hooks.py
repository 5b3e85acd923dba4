"""Hooks of the documentation site: borrowed pages, links, and generated tables of settings."""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parent.parent
BORROWED = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "results/benchmarks.md",
    "benchmarks/growth.svg": "results/growth.svg",
}
"""Files outside docs/ and their path on the site; figures and tables of results/ come on top."""
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
_FIELDS = re.compile(r"^<!-- fields: ([\w.]+) -->$", re.M)
_MODELS = "<!-- models -->"
_ALGORITHMS = "<!-- algorithms -->"


def on_files(files: Files, config: Any) -> Files:  # noqa: ANN401 - mkdocs' own
    """Add the files that are outside docs/."""
    for source, target in _borrowed().items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:  # noqa: ANN401
    """Expand generated tables and turn links between files into links between pages."""
    site_path = page.file.src_uri
    if site_path.startswith("results/tables/"):
        title = posixpath.basename(site_path).removesuffix(".md").capitalize()
        markdown = f"# {title}: full tables\n\n{markdown}"
    markdown = with_settings(markdown)
    sources = {target: source for source, target in _borrowed().items()}
    folder = posixpath.dirname(sources.get(site_path, f"docs/{site_path}"))

    def rewrite(link: re.Match[str]) -> str:
        image, text, target, anchor = link.groups(default="")
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        destination = _borrowed().get(path, path.removeprefix("docs/"))
        if destination in files.src_uris:
            relative = posixpath.relpath(destination, posixpath.dirname(site_path) or ".")
            return f"{image}[{text}]({relative}{anchor})"
        if (ROOT / path).exists():
            return "" if image else text  # a file of the repository that is not on the site
        return link[0]  # a broken link, which the build refuses

    return _LINK.sub(rewrite, markdown)


def _borrowed() -> dict[str, str]:
    figures = sorted((ROOT / "results").rglob("*.svg"))
    tables = sorted((ROOT / "results").rglob("*.md"))
    names = {path.relative_to(ROOT).as_posix(): f"results/tables/{path.name}" for path in tables}
    names |= {name: name for name in (path.relative_to(ROOT).as_posix() for path in figures)}
    return BORROWED | names


def with_settings(markdown: str) -> str:
    """Replace the marks of configuration.md by tables of a settings class's fields."""
    if _MODELS in markdown:
        markdown = markdown.replace(_MODELS, "\n".join(_model_tables()))
    if _ALGORITHMS in markdown:
        markdown = markdown.replace(_ALGORITHMS, "\n".join(_algorithm_tables()))
    return _FIELDS.sub(lambda mark: settings_table(_load(mark[1])), markdown)


def settings_table(config: type[BaseModel], without: type[BaseModel] | None = None) -> str:
    """Return a Markdown table of a settings class: key, type, default, meaning.

    Args:
        config: the class.
        without: leave out the keys that this class has with the same default.
    """
    lines = ["| key | type | default | |", "|---|---|---|---|"]
    for name, field in config.model_fields.items():
        other = without and without.model_fields.get(name)
        if other and _default(other) == _default(field):
            continue
        text = field.description or ""
        cells = (f"`{name}`", _type(field.annotation), _default(field), " ".join(text.split()))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _model_tables() -> Iterator[str]:
    from recoach.models.registry import MODELS  # noqa: PLC0415 - imports torch

    yield f"`name` is one of {', '.join(f'`{name}`' for name in MODELS)}.\n"
    for name, entry in MODELS.items():
        if entry.config.model_fields:
            yield f"### {name}\n\n{settings_table(entry.config)}"


def _algorithm_tables() -> Iterator[str]:
    from recoach.training.algorithms.registry import ALGORITHMS  # noqa: PLC0415 - imports torch
    from recoach.training.config import FinetuneConfig  # noqa: PLC0415

    for name, entry in ALGORITHMS.items():
        yield f"### {name}\n\n{settings_table(entry.config, FinetuneConfig)}"


def _load(name: str) -> Any:  # noqa: ANN401 - any settings class
    module, _, attribute = name.rpartition(".")
    return getattr(__import__(module, fromlist=[attribute]), attribute)


def _type(annotation: Any) -> str:  # noqa: ANN401 - any annotation
    """Return an annotation in words: the choices of a Literal, the parts of a union."""
    parts = get_args(annotation)
    name = getattr(annotation, "__name__", str(annotation))
    if name == "Literal":
        return ", ".join(f"`{choice}`" for choice in parts)
    if name in ("Annotated", "FieldInfo"):
        return _type(parts[0])
    if parts and name in ("tuple", "dict"):
        inner = [_type(part) for part in parts if part is not Ellipsis]
        return f"list of {inner[0]}" if name == "tuple" else f"table of {inner[-1]}"
    if parts:
        return " or ".join(_type(part) for part in parts if part is not type(None))
    return {"str": "text", "bool": "true, false", "int": "int", "float": "float"}.get(name, name)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value)}`" if isinstance(value, tuple) else f"`{value!r}`".replace("'", '"')
