"""What the service answers is what its OpenAPI says; schemathesis makes the requests from it."""

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")
pytest.importorskip("schemathesis", reason="the fuzz extra is not installed")
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from recoach.serving.app import build_app
from recoach.serving.limits import Limits
from recoach.serving.service import Service

OPERATIONS = [("GET", path) for path in ("/health", "/v1/models", "/v1/items", "/v1/users")]
OPERATIONS += [("POST", f"/v1/{name}") for name in ("recommend", "recommend/batch", "compare")]


@pytest.fixture
def schema(shelf):
    limits = Limits(body_bytes=1 << 26)  # no request is too large; the limit has tests of its own
    app = build_app(Service(lambda: shelf, lambda: 0), limits=limits)
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def named(case):
    """Put ids of the log in the place of others, so that a right request gets its lists."""
    wishes = case.body.get("requests", [case.body]) if isinstance(case.body, dict) else []
    for wish in wishes:
        known = {"user": "u1", "history": ["i1"], "candidates": ["i1", "i2"], "model": "base"}
        wish |= {name: known[name] for name in wish if wish[name] and name in known}
    return case


def test_every_operation_is_asked(schema):
    asked = [(found.ok().method.upper(), found.ok().path) for found in schema.get_all_operations()]
    assert sorted(asked) == sorted(OPERATIONS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "right"),
    [(*operation, True) for operation in OPERATIONS]
    + [(*operation, False) for operation in OPERATIONS[2:]],  # the first two can be asked no wrong
)
def test_every_answer_is_what_the_schema_says(schema, method, path, right):
    mode = GenerationMode.POSITIVE if right else GenerationMode.NEGATIVE

    @settings(
        max_examples=500,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(schema[path][method].as_strategy(generation_mode=mode))
    def answered(case):
        # A request that is right in form may still ask for what is not in the log.
        (named(case) if right else case).call_and_validate(
            excluded_checks=[positive_data_acceptance]
        )

    answered()
