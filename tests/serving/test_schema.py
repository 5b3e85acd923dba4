"""Responses conform to the OpenAPI schema; schemathesis generates requests from the schema."""

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")
pytest.importorskip("schemathesis", reason="the fuzz extra is not installed")
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from recoach.serving.app import build_app
from recoach.serving.limits import Limits
from recoach.serving.routing import Routing
from recoach.serving.service import Service

WITHOUT_INPUT = [("GET", path) for path in ("/health", "/live", "/ready")]
WITHOUT_INPUT += [("GET", "/v1/models"), ("GET", "/v1/users/random")]
OPERATIONS = [*WITHOUT_INPUT, ("GET", "/v1/items"), ("GET", "/v1/users")]
OPERATIONS += [("POST", f"/v1/{name}") for name in ("recommend", "recommend/batch", "compare")]


@pytest.fixture
def schema(snapshot):
    limits = Limits(max_body_bytes=1 << 26)  # above any generated request
    app = build_app(Routing({"run": Service(lambda: snapshot, lambda: 0)}), limits=limits)
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def with_known_ids(case):
    """Replace IDs and model names by existing ones, so that a valid request succeeds."""
    requests = case.body.get("requests", [case.body]) if isinstance(case.body, dict) else []
    known = {"user": "u1", "history": ["i1"], "candidates": ["i1", "i2"], "model": "base"}
    for request in requests:
        request |= {name: known[name] for name in request if request[name] and name in known}
    return case


def test_the_schema_lists_every_operation(schema):
    results = [result.ok() for result in schema.get_all_operations()]
    operations = [(operation.method.upper(), operation.path) for operation in results]
    assert sorted(operations) == sorted(OPERATIONS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "valid"),
    [(*operation, True) for operation in OPERATIONS]
    + [(*operation, False) for operation in OPERATIONS if operation not in WITHOUT_INPUT],
)
def test_responses_conform_to_the_schema(schema, method, path, valid):
    mode = GenerationMode.POSITIVE if valid else GenerationMode.NEGATIVE

    @settings(
        max_examples=500,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(schema[path][method].as_strategy(generation_mode=mode))
    def validate(case):
        # A request that conforms to the schema may still name IDs that do not exist.
        (with_known_ids(case) if valid else case).call_and_validate(
            excluded_checks=[positive_data_acceptance]
        )

    validate()
