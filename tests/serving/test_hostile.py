"""Malicious requests, fuzzing, and concurrent requests during a reload."""

import asyncio
import hmac
import json
import traceback

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recoach.serving import limits
from recoach.serving.app import build_app
from recoach.serving.recommend import recommend
from recoach.serving.routing import Routing
from recoach.serving.service import Service

POSTS = ("/v1/recommend", "/v1/recommend/batch", "/v1/compare")
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def client(snapshot):
    service = Service(lambda: snapshot, lambda: 0)
    with TestClient(build_app(Routing({"run": service})), raise_server_exceptions=False) as opened:
        yield opened


def assert_safe(response, statuses=(200, 400, 404, 405, 413, 422)):
    assert response.status_code in statuses, (response.status_code, response.text[:300])
    for text in ("Traceback", "/src/", "site-packages", "recoach/", ".py"):
        assert text not in response.text
    if response.status_code >= 400:
        assert set(response.json()) == {"detail"}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 500_000,
        b'{"a":' * 100_000,
        b'{"user": "u1", "k": ' + b"9" * 10_000 + b"}",
        b'{"user": "u1", "k": 1e400}',
        b'{"user": "\\ud800"}',
        b'{"history": ["\\udfff"]}',
        b'{"user": "\\u0000"}',
        b"\x00" * 1000,
        b"\xff\xfe{\x00}\x00",
        b'{"user": "u1", "user": "u2"}',
        b'{"user": "../../etc/passwd"}',
        b'{"user": "u1", "candidates": []}',
        b'{"user": "u1", "k": true}',
        b"",
    ],
    ids=range(14),
)
def test_malicious_bodies_get_safe_responses(client, path, body):
    assert_safe(client.post(path, content=body, headers=JSON))


def test_a_body_of_ten_megabytes_is_rejected(client):
    for path in POSTS:
        assert_safe(client.post(path, content=bytes(10 << 20), headers=JSON), (413,))
    assert client.post("/v1/recommend", json={"user": "u1"}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/v1/%2e%2e/", "/v1/items?query=" + "a" * 9999, "/v1/nothing"]
)
def test_malicious_paths_get_safe_responses(client, path):
    assert_safe(client.get(path))


@pytest.mark.parametrize("text", ["(", "[a-", "\\", "%", "\x00", "é" * 200, "<script>", "' OR 1=1"])
def test_search_queries_are_literal_text(client, text):
    for path in ("/v1/items", "/v1/users"):
        response = client.get(path, params={"query": text})
        assert_safe(response, (200,))
        assert response.json()["ids"] == []


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
request = st.fixed_dictionaries(
    {},
    optional={
        "user": st.sampled_from(["u1", "u29", "nobody"]) | any_json,
        "history": st.lists(st.sampled_from(["i1", "i3", "x"])) | any_json,
        "k": st.integers(-2, 1200) | any_json,
        "exclude_seen": st.booleans() | any_json,
        "candidates": st.lists(st.sampled_from(["i1", "i2", "x"])) | any_json,
        "model": st.sampled_from(["base", "tuned", "best"]) | any_json,
    },
)


def fuzz(client, examples):
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples < 1000,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(
        st.sampled_from(POSTS),
        request | st.fixed_dictionaries({"requests": st.lists(request, max_size=3)}) | any_json,
    )
    def send(path, body):
        content = json.dumps(body).encode("utf-8", "surrogatepass")
        assert_safe(client.post(path, content=content, headers=JSON))

    send()


def test_any_json_gets_a_safe_response(client):
    fuzz(client, 150)


@pytest.mark.slow
def test_many_json_bodies_get_safe_responses(client):
    fuzz(client, 20_000)


def test_keys_are_compared_in_constant_time(snapshot, monkeypatch):
    compared = []

    def compare(sent, expected):
        compared.append((sent, expected))
        return hmac.compare_digest(sent, expected)

    fake_hmac = type("hmac", (), {"compare_digest": staticmethod(compare)})
    monkeypatch.setattr(limits, "hmac", fake_hmac)
    app = build_app(Routing({"run": Service(lambda: snapshot, lambda: 0)}), api_key="secret")
    with TestClient(app) as client:
        for key in ("", "s", "secret", "secretly"):
            client.get("/v1/models", headers={"x-api-key": key})
    assert compared == [(key.encode(), b"secret") for key in ("", "s", "secret", "secretly")]


def send_concurrently(app, service, requests, change):
    """Send requests, 64 at a time; call `change` after a third of the responses."""
    import httpx2 as httpx

    async def send_all():
        semaphore, responses = asyncio.Semaphore(64), [None] * len(requests)
        transport = httpx.ASGITransport(app=app)

        async def send(client, index):
            async with semaphore:
                responses[index] = await client.post("/v1/recommend", json=requests[index])
                if index == len(requests) // 3:
                    change()

        async with service, httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            await asyncio.gather(*(send(client, index) for index in range(len(requests))))
        return responses

    return asyncio.run(send_all())


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_reload_loses_and_corrupts_no_response(make_snapshot, dataset, count):
    snapshots = {"one": make_snapshot("one"), "two": make_snapshot("two", seed=5)}
    state = {"version": "one"}
    service = Service(
        lambda: snapshots[state["version"]], lambda: state["version"], reload_seconds=0.01
    )
    requests = [
        {"user": f"u{n % 30}", "k": 1 + n % 7, "model": ("base", "tuned")[n % 2]}
        for n in range(count)
    ]
    users = dataset.user_ids.to_list()
    frames = {
        (version, model): recommend(snapshots[version].models[model], dataset, users, k=7)
        for version in snapshots
        for model in ("base", "tuned")
    }
    lists = {
        key: frame.group_by("user_id", maintain_order=True).agg("item_id").rows_by_key("user_id")
        for key, frame in frames.items()
    }
    responses = send_concurrently(
        build_app(Routing({"run": service})), service, requests, lambda: state.update(version="two")
    )
    versions = set()
    for request, response in zip(requests, responses, strict=True):
        assert response.status_code == 200
        body = response.json()
        versions.add(body["version"])
        expected = lists[body["version"], request["model"]][request["user"]][0][0]
        assert [item["item_id"] for item in body["items"]] == expected[: request["k"]]
    assert versions == {"one", "two"}


def test_internal_errors_are_logged_and_not_sent(snapshot, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(type(snapshot), "find_items", broken)
    app = build_app(Routing({"run": Service(lambda: snapshot, lambda: 0)}))
    with TestClient(app, raise_server_exceptions=False) as client:
        response = client.get("/v1/items", params={"query": "a"})
    assert response.status_code == 500
    assert response.json() == {"detail": "Internal error. See the log of the service."}
    logged = "".join(traceback.format_exception(caplog.records[0].exc_info[1]))
    assert "/secret/path" in logged
