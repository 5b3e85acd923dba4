"""HTML pages of the service: one file each, with its style and script and the headers it needs."""

import base64
import hashlib
import re
from importlib.resources import files
from typing import Final, NamedTuple

_PART: Final = re.compile(r"\{\{([\w.]+)\}\}")
_INLINE: Final = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


class HtmlPage(NamedTuple):
    """A page and the headers it is sent with."""

    content: str
    headers: dict[str, str]


def read_page(name: str) -> HtmlPage:
    """Return a page of this package, with the files named as `{{FILE}}` in their places.

    Its policy allows only these styles and scripts, by their hashes, and requests to the service
    itself; nothing is loaded from another site, and no other site embeds the page.
    """
    content = _PART.sub(lambda part: _read(part[1]), _read(name))
    hashes: dict[str, list[str]] = {"style": [], "script": []}
    for kind, text in _INLINE.findall(content):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    policy = [
        "default-src 'none'",
        *(f"{kind}-src {' '.join(values)}" for kind, values in hashes.items()),
        "connect-src 'self'",
        *("frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"),
    ]
    headers = {
        "content-security-policy": "; ".join(policy),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    return HtmlPage(content, headers)


def _read(name: str) -> str:
    return files("recoach.serving").joinpath(name).read_text(encoding="utf-8")
