"""Metrics: what is counted, under which names."""

import asyncio

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from recoach.errors import ModelError
from recoach.serving.app import build_app
from recoach.serving.routing import Routing
from recoach.serving.service import Service


def values(client):
    """Return the values of the metrics by name and labels, in alphabetical order of their names."""
    response = client.get("/metrics", headers={"Authorization": "Bearer secret"})
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_requests_and_lists_are_counted_by_route_and_status(snapshot):
    routing = Routing({"metered": Service(lambda: snapshot, lambda: 0)})
    with TestClient(build_app(routing, api_key="secret")) as client:
        before = values(client)
        client.headers["X-API-Key"] = "secret"
        for k in (1, 2, 0):
            client.post("/v1/recommend", json={"user": "u1", "model": "base", "k": k})
        requests = [{"user": "u1"}, {"history": ["i3"]}]
        client.post("/v1/recommend/batch", json={"requests": requests})
        client.get("/nothing/here")
        client.get("/v1/models", headers={"X-API-Key": "wrong"})
        after = values(client)

    def growth(*key):
        return after[key] - before.get(key, 0)

    assert growth("recoach_requests_total", "/v1/recommend", "200") == 2
    assert growth("recoach_requests_total", "/v1/recommend", "422") == 1
    assert growth("recoach_requests_total", "/v1/recommend/batch", "200") == 1
    assert growth("recoach_requests_total", "other", "404") == 1
    assert growth("recoach_requests_total", "other", "401") == 1
    assert growth("recoach_lists_total", "base", "metered") == 2
    assert growth("recoach_lists_total", "tuned", "metered") == 2
    assert growth("recoach_request_duration_seconds_count", "/v1/recommend") == 3
    assert 0 < growth("recoach_request_duration_seconds_sum", "/v1/recommend") < 10


def test_metrics_need_the_key(snapshot):
    routing = Routing({"metered": Service(lambda: snapshot, lambda: 0)})
    with TestClient(build_app(routing, api_key="secret")) as client:
        assert client.get("/metrics").status_code == 401


def test_batches_queue_and_versions_are_measured(make_snapshot):
    state = {"version": "one"}

    def load():
        if state["version"] == "broken":
            raise ModelError("half a file")
        return make_snapshot(state["version"])

    async def follow():
        service = Service(load, lambda: state["version"], run="measured", reload_seconds=0.01)
        async with service:
            snapshot = service.snapshot
            query = snapshot.build_query(
                user="u1", history=None, k=2, exclude_seen=True, candidates=None
            )
            await asyncio.gather(*(service.recommend(snapshot, "base", [query]) for _ in range(5)))
            state["version"] = "broken"
            while not service.reload_error:
                await asyncio.sleep(0.01)
            state["version"] = "two"
            while service.snapshot.version != "two":
                await asyncio.sleep(0.01)
        return service

    service = asyncio.run(follow())
    found = values(TestClient(build_app(Routing({"measured": service}), api_key="secret")))
    assert found["recoach_batch_size_sum", "measured"] == 5
    assert found["recoach_batch_size_count", "measured"] <= 2
    assert found["recoach_queue_length", "measured"] == 0
    assert found["recoach_queue_duration_seconds_count", "measured"] == 5
    assert found["recoach_reloads_total", "failed", "measured"] == 1
    assert found["recoach_reloads_total", "loaded", "measured"] == 1
    assert found["recoach_model_info", "measured", "one"] == 0
    assert found["recoach_model_info", "measured", "two"] == 1
