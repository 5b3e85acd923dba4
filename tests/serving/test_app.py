"""The HTTP API: responses, rejected requests and error messages."""

import asyncio
import json
import re
import time

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")
from fastapi.testclient import TestClient

from recoach.serving.app import build_app
from recoach.serving.limits import Limits, LimitsMiddleware
from recoach.serving.recommend import recommend
from recoach.serving.routing import Routing
from recoach.serving.service import Service


def make_client(snapshot, queue_size=100, **settings):
    service = Service(lambda: snapshot, lambda: 0, queue_size=queue_size)
    return TestClient(
        build_app(Routing({"run": service}), **settings), raise_server_exceptions=False
    )


@pytest.fixture(scope="module")
def client(snapshot):
    with make_client(snapshot) as opened:
        yield opened


def test_health_and_models_describe_the_run(client, snapshot):
    assert client.get("/health").json() == {"status": "ok", "version": "one"}
    info = client.get("/v1/models").json()
    assert [(m["name"], m["kind"], m["served"]) for m in info["models"]] == [
        ("base", "SASRec", False),
        ("tuned", "SASRec", True),
    ]
    assert (info["users"], info["items"]) == (snapshot.dataset.n_users, snapshot.dataset.n_items)


def test_a_list_equals_the_one_of_recommend(client, snapshot):
    tuned = client.post("/v1/recommend", json={"user": "u7", "k": 6}).json()
    frame = recommend(snapshot.models["tuned"], snapshot.dataset, ["u7"], k=6)
    assert [item["item_id"] for item in tuned["items"]] == frame["item_id"].to_list()
    assert [item["rank"] for item in tuned["items"]] == frame["rank"].to_list()
    assert tuned["items"][0]["title"] == f"Title of {frame['item_id'][0]}"
    assert (tuned["model"], tuned["version"]) == ("tuned", "one")
    base = client.post("/v1/recommend", json={"user": "u7", "k": 6, "model": "base"}).json()
    frame = recommend(snapshot.models["base"], snapshot.dataset, ["u7"], k=6)
    assert [item["item_id"] for item in base["items"]] == frame["item_id"].to_list()


def test_batch_responses_are_in_request_order_across_models(client, snapshot):
    requests = [
        {"user": "u1", "k": 2},
        {"history": ["i3"], "k": 3, "model": "base"},
        {"user": "u2", "k": 2, "exclude_seen": False, "candidates": ["i1", "i2"]},
    ]
    batch = client.post("/v1/recommend/batch", json={"requests": requests}).json()["responses"]
    single = [client.post("/v1/recommend", json=request).json() for request in requests]
    for response in (*batch, *single):
        del response["impression_id"]
    assert batch == single
    assert [response["model"] for response in batch] == ["tuned", "base", "tuned"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"user": "u1", "model": "best"}, 404, "No model called 'best'. Choose one of base, tuned"),
        ({"user": "u1", "candidates": ["x"]}, 422, "None of the 1 candidates"),
        ({}, 422, "give either user or history"),
        ({"user": "u1", "history": ["i1"]}, 422, "give either user or history"),
        ({"user": "u1", "k": 0}, 422, "body.k: Input should be greater than or equal to 1"),
        ({"user": "u1", "k": 10**9}, 422, "body.k: Input should be less than"),
        ({"user": "u1", "k": "5"}, 422, "body.k: Input should be a valid integer"),
        ({"user": "u1", "n": 5}, 422, "body.n: Extra inputs"),
        ({"user": "u" * 600}, 422, "body.user: String should have at most 512"),
        ({"history": ["i1", ""]}, 422, "body.history[1]: String should have at least 1"),
    ],
)
def test_invalid_requests_get_a_one_line_message(client, body, status, message):
    response = client.post("/v1/recommend", json=body)
    assert response.status_code == status
    assert message in response.json()["detail"]
    assert "\n" not in response.json()["detail"]


@pytest.mark.parametrize("text", ["{", '{"user": "u1", "k": NaN}', "[]", "null", '"', "\xff"])
def test_malformed_bodies_are_rejected(client, text):
    headers = {"content-type": "application/json"}
    response = client.post("/v1/recommend", content=text.encode("latin-1"), headers=headers)
    assert response.status_code in (400, 422)
    assert set(response.json()) == {"detail"}


def test_a_large_batch_or_body_is_rejected(snapshot):
    with make_client(snapshot, limits=Limits(max_body_bytes=2000)) as client:
        response = client.post("/v1/recommend", json={"history": ["i1"] * 1000})
        assert (response.status_code, response.json()["detail"]) == (
            413,
            "The body is larger than 2,000 bytes. Split it into more requests.",
        )
        assert client.post("/v1/recommend", json={"user": "u1"}).status_code == 200
    with make_client(snapshot) as client:
        response = client.post("/v1/recommend/batch", json={"requests": [{"user": "u1"}] * 257})
        assert response.status_code == 422


def test_a_slow_upload_is_rejected():
    sent = []

    async def receive():
        await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/v1/recommend", "headers": []}
    middleware = LimitsMiddleware(
        lambda *_: pytest.fail("the application was called"),
        Limits(body_timeout_seconds=0.05),
        None,
    )
    asyncio.run(middleware(scope, receive, send))
    assert sent[0]["status"] == 408


def test_a_timeout_gives_504_and_later_requests_succeed(snapshot, monkeypatch):
    original = type(snapshot).recommend
    delay = {"seconds": 0.5}

    def slow(self, model, queries):
        time.sleep(delay["seconds"])
        return original(self, model, queries)

    monkeypatch.setattr(type(snapshot), "recommend", slow)
    with make_client(snapshot, limits=Limits(response_timeout_seconds=0.05)) as client:
        response = client.post("/v1/recommend", json={"user": "u1"})
        assert (response.status_code, response.headers["retry-after"]) == (504, "1")
        delay["seconds"] = 0
        time.sleep(0.6)
        assert client.post("/v1/recommend", json={"user": "u1"}).status_code == 200


def test_a_full_queue_gives_503(snapshot):
    with make_client(snapshot, queue_size=1) as client:
        response = client.post("/v1/recommend/batch", json={"requests": [{"user": "u1"}] * 2})
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")


def test_an_internal_error_reveals_no_details(snapshot, monkeypatch):
    def broken(*_):
        raise RuntimeError("secret /path")

    monkeypatch.setattr(type(snapshot), "recommend", broken)
    with make_client(snapshot) as client:
        response = client.post("/v1/recommend", json={"user": "u1"})
    assert response.status_code == 500
    assert response.json() == {"detail": "Internal error. See the log of the service."}


def test_every_path_except_page_and_health_needs_the_key(snapshot):
    with make_client(snapshot, api_key="gehéim") as client:
        assert client.get("/health").status_code == 200
        assert client.get("/").status_code == 200
        for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}):
            response = client.post("/v1/recommend", json={"user": "u1"}, headers=headers)
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
        for path in ("/v1/models", "/v1/items", "/v1/users", "/openapi.json", "/nothing"):
            assert client.get(path).status_code == 401
        key = "gehéim".encode()
        assert client.get("/v1/models", headers={"x-api-key": key}).status_code == 200
        bearer = {"authorization": b"bearer " + key}
        assert client.post("/v1/recommend", json={"user": "u1"}, headers=bearer).status_code == 200


def test_without_the_page_no_route_lists_users(snapshot):
    with make_client(snapshot, page=False) as client:
        for path in ("/", "/v1/items", "/v1/users", "/v1/users/random"):
            assert client.get(path).status_code == 404
        assert client.post("/v1/compare", json={"user": "u1"}).status_code == 404
        assert client.post("/v1/recommend", json={"user": "u1"}).status_code == 200


def test_the_routes_of_the_page(client, snapshot):
    matches = client.get("/v1/items", params={"query": "title of i3"}).json()
    assert matches == {"ids": ["i3"], "titles": ["Title of i3"]}
    assert client.get("/v1/users", params={"query": "u29"}).json()["ids"] == ["u29"]
    comparison = client.post("/v1/compare", json={"user": "u1", "k": 3}).json()
    assert [len(side["items"]) for side in comparison["sides"]] == [3, 3]
    assert comparison["held_out"] == []
    held_out = client.post("/v1/compare", json={"user": "u1", "hold_out": True}).json()["held_out"]
    (test_item,) = snapshot.dataset.test.row(1)
    assert [item["item_id"] for item in held_out] == [snapshot.item_ids[test_item]]
    for body, status, detail in (
        ({"user": "nobody", "hold_out": True}, 404, "No user 'nobody' in the log. Choose"),
        ({"history": ["i1"], "hold_out": True}, 422, "hold_out needs a user"),
        ({"history": ["x"]}, 404, "None of the items is in the catalogue"),
    ):
        response = client.post("/v1/compare", json=body)
        assert response.status_code == status
        assert detail in response.json()["detail"]
    (user,) = client.get("/v1/users/random").json()["ids"]
    assert user in snapshot.user_index
    assert "default-src 'none'" in client.get("/").headers["content-security-policy"]


def test_the_schema_lists_every_route(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        *("/health", "/live", "/ready", "/v1/models", "/v1/recommend", "/v1/recommend/batch"),
        *("/v1/compare", "/v1/items", "/v1/users", "/v1/users/random"),
    }


@pytest.mark.parametrize("body", [{"user": "nobody"}, {"history": []}, {"history": ["x", "y"]}])
def test_nobody_gets_the_most_popular_items_as_a_cold_list(client, snapshot, body):
    response = client.post("/v1/recommend", json=body | {"k": 3}).json()
    assert response["cold"]
    assert response["model"] == "popularity"
    assert response["skipped"] == body.get("history", [])
    best = np.argsort(-snapshot.item_counts, kind="stable")[:3]
    assert [item["item_id"] for item in response["items"]] == [snapshot.item_ids[i] for i in best]
    assert [item["score"] for item in response["items"]] == snapshot.item_counts[best].tolist()
    candidates = [snapshot.item_ids[item] for item in best[1:]]
    limited = client.post("/v1/recommend", json=body | {"candidates": candidates}).json()
    assert [item["item_id"] for item in limited["items"]] == candidates


def test_items_of_a_history_that_are_skipped_are_told(client):
    response = client.post("/v1/recommend", json={"history": ["x", "i1", "y"]}).json()
    assert (response["skipped"], response["cold"]) == (["x", "y"], False)
    same = client.post("/v1/recommend", json={"history": ["i1"]}).json()
    assert same["items"] == response["items"]


def test_a_batch_has_a_list_or_an_error_for_each_request(client):
    requests = [{"user": "u1"}, {"user": "u1", "model": "best"}, {"history": ["i2"]}]
    requests += [{"user": "u1", "candidates": ["x"]}]
    response = client.post("/v1/recommend/batch", json={"requests": requests})
    assert response.status_code == 200
    first, second, third, fourth = response.json()["responses"]
    assert first["items"]
    assert second == {
        "status": 404,
        "detail": "No model called 'best'. Choose one of base, tuned.",
    }
    assert third["items"]
    assert fourth["status"] == 422


def test_an_error_of_a_batch_names_its_place(client):
    requests = [{"user": "u1"}] * 3 + [{"history": [7]}]
    response = client.post("/v1/recommend/batch", json={"requests": requests})
    assert response.status_code == 422
    assert response.json()["detail"].startswith("body.requests[3].history[0]: ")


def test_the_sum_of_k_in_a_batch_is_limited(client):
    body = {"requests": [{"user": "u1", "k": 1000}] * 11}
    response = client.post("/v1/recommend/batch", json=body)
    assert response.status_code == 422
    assert "11,000 items, more than 10,000" in response.json()["detail"]
    body["requests"].pop()
    assert client.post("/v1/recommend/batch", json=body).status_code == 200


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_content_type_is_named(client, media_type):
    headers = {"content-type": media_type}
    response = client.post("/v1/recommend", content=b'{"user": "u1"}', headers=headers)
    assert response.status_code == 415
    assert "content-type: application/json" in response.json()["detail"]


@pytest.mark.parametrize("path", ["/health", "/live", "/ready"])
def test_load_balancers_may_ask_for_the_head_alone(client, path):
    response = client.head(path)
    assert (response.status_code, response.content) == (200, b"")


def test_every_request_is_logged_under_the_id_that_it_returns(client, caplog):
    caplog.set_level("INFO", "recoach.access")
    sent = client.post("/v1/recommend", json={"user": "u1"}, headers={"x-request-id": "a-1"})
    bad = client.post("/v1/recommend", json={"user": "u1"}, headers={"x-request-id": 'a"\\n'})
    failed = client.get("/nothing?key=secret")
    lines = [json.loads(record.getMessage()) for record in caplog.records]
    ids = [response.headers["x-request-id"] for response in (sent, bad, failed)]
    assert [line["request_id"] for line in lines] == ids
    assert ids[0] == "a-1"
    assert re.fullmatch("[0-9a-f]{32}", ids[1])
    assert lines[0]["path"] == "/v1/recommend"
    assert lines[0]["status"] == 200
    assert lines[0]["lists"] == 1
    assert lines[0]["k"] == 10
    assert lines[0]["model"] == ["tuned"]
    assert lines[2]["status"] == 404
    assert "secret" not in caplog.text


def test_a_timeout_leaves_a_line(snapshot, monkeypatch, caplog):
    monkeypatch.setattr(type(snapshot), "recommend", lambda *_: time.sleep(0.2))
    with make_client(snapshot, limits=Limits(response_timeout_seconds=0.02)) as client:
        assert client.post("/v1/recommend", json={"user": "u1"}).status_code == 504
    lines = [json.loads(r.getMessage()) for r in caplog.records if r.name == "recoach.access"]
    assert [line["status"] for line in lines] == [504]


def test_only_allowed_host_names_are_answered(snapshot):
    with make_client(snapshot, allowed_hosts=["localhost", "[::1]"]) as client:
        for host, status in {
            "localhost": 200,
            "LOCALHOST:8000": 200,
            "[::1]:8000": 200,
            "evil.example": 421,
            "localhost.evil.example": 421,
            "": 421,
        }.items():
            assert client.get("/live", headers={"host": host}).status_code == status


def test_the_page_cannot_be_framed(client):
    policy = client.get("/").headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
