"""A hash that identifies the metrics of runs."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any


def digest_of(records: Iterable[Mapping[str, Any]]) -> str:
    """Return a hash of the metrics of several runs."""
    text = json.dumps([record["models"] for record in records], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
