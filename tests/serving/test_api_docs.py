"""The OpenAPI description and the page that shows it without another site."""

import re

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")
from fastapi.testclient import TestClient

from recoach.serving.app import build_app
from recoach.serving.limits import PATHS_WITHOUT_KEY
from recoach.serving.routing import Routing
from recoach.serving.service import Service


def make_client(snapshot, api_key):
    routing = Routing({"run": Service(lambda: snapshot, lambda: 0)})
    return TestClient(build_app(routing, api_key=api_key))


def test_the_schema_names_both_ways_to_send_the_key_and_the_paths_without_one(snapshot):
    client = make_client(snapshot, "secret")
    schema = client.get("/openapi.json", headers={"x-api-key": "secret"}).json()
    assert schema["components"]["securitySchemes"] == {
        "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "Bearer": {"type": "http", "scheme": "bearer"},
    }
    assert schema["security"] == [{"ApiKey": []}, {"Bearer": []}]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            assert ("security" in operation) == (path in PATHS_WITHOUT_KEY)
            is_open = client.request(method, path).status_code != 401
            assert is_open == ("security" in operation), (method, path)


def test_a_service_without_a_key_has_no_security_scheme(snapshot):
    schema = make_client(snapshot, None).get("/openapi.json").json()
    assert "security" not in schema
    assert "securitySchemes" not in schema["components"]


def test_the_page_of_the_api_loads_nothing_from_other_sites_and_needs_no_key(snapshot):
    response = make_client(snapshot, "secret").get("/docs")
    assert response.status_code == 200
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|@import|https?://", response.text)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert make_client(snapshot, None).get("/redoc").status_code == 404
