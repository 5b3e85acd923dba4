"""The service as HTTP: what is answered, what is refused and how."""

import asyncio
import time

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")
from fastapi.testclient import TestClient

from recoach.serving.app import build_app
from recoach.serving.limits import Guards, Limits
from recoach.serving.recommend import recommend
from recoach.serving.service import Service


def client(shelf, **settings):
    service = Service(lambda: shelf, lambda: 0, queue=settings.pop("queue", 100))
    return TestClient(build_app(service, **settings), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def web(shelf):
    with client(shelf) as opened:
        yield opened


def test_health_and_models(web, shelf):
    assert web.get("/health").json() == {"status": "ok", "version": "one"}
    told = web.get("/v1/models").json()
    assert [(m["name"], m["kind"], m["served"]) for m in told["models"]] == [
        ("base", "SASRec", False),
        ("tuned", "SASRec", True),
    ]
    assert (told["users"], told["items"]) == (shelf.dataset.n_users, shelf.dataset.n_items)


def test_a_list_is_the_one_of_recommend(web, shelf):
    answer = web.post("/v1/recommend", json={"user": "u7", "k": 6}).json()
    frame = recommend(shelf.models["tuned"], shelf.dataset, ["u7"], k=6)
    assert [item["item_id"] for item in answer["items"]] == frame["item_id"].to_list()
    assert [item["rank"] for item in answer["items"]] == frame["rank"].to_list()
    assert answer["items"][0]["title"] == f"Title of {frame['item_id'][0]}"
    assert (answer["model"], answer["version"]) == ("tuned", "one")
    base = web.post("/v1/recommend", json={"user": "u7", "k": 6, "model": "base"}).json()
    frame = recommend(shelf.models["base"], shelf.dataset, ["u7"], k=6)
    assert [item["item_id"] for item in base["items"]] == frame["item_id"].to_list()


def test_a_batch_is_answered_in_its_order_across_models(web, shelf):
    wishes = [
        {"user": "u1", "k": 2},
        {"history": ["i3"], "k": 3, "model": "base"},
        {"user": "u2", "k": 2, "exclude_seen": False, "candidates": ["i1", "i2"]},
    ]
    answers = web.post("/v1/recommend/batch", json={"requests": wishes}).json()["responses"]
    alone = [web.post("/v1/recommend", json=one).json() for one in wishes]
    assert answers == alone
    assert [answer["model"] for answer in answers] == ["tuned", "base", "tuned"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"user": "nobody"}, 404, "no user 'nobody'"),
        ({"user": "u1", "model": "best"}, 404, "no model called 'best'; there are base, tuned"),
        ({"history": ["x"]}, 422, "none of the 1 items"),
        ({"user": "u1", "candidates": ["x"]}, 422, "None of the 1 candidates"),
        ({}, 422, "give either user or history"),
        ({"user": "u1", "history": ["i1"]}, 422, "give either user or history"),
        ({"user": "u1", "k": 0}, 422, "body.k: Input should be greater than or equal to 1"),
        ({"user": "u1", "k": 10**9}, 422, "body.k: Input should be less than"),
        ({"user": "u1", "k": "5"}, 422, "body.k: Input should be a valid integer"),
        ({"user": "u1", "n": 5}, 422, "body.n: Extra inputs"),
        ({"user": "u" * 600}, 422, "body.user: String should have at most 512"),
        ({"history": []}, 422, "body.history: List should have at least 1"),
    ],
)
def test_what_cannot_be_answered_is_said_in_one_sentence(web, body, status, words):
    answer = web.post("/v1/recommend", json=body)
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


@pytest.mark.parametrize("text", ["{", '{"user": "u1", "k": NaN}', "[]", "null", '"', "\xff"])
def test_malformed_bodies_are_refused(web, text):
    headers = {"content-type": "application/json"}
    answer = web.post("/v1/recommend", content=text.encode("latin-1"), headers=headers)
    assert answer.status_code in (400, 422)
    assert set(answer.json()) == {"detail"}


def test_a_large_batch_or_body_is_refused(shelf):
    with client(shelf, limits=Limits(body_bytes=2000)) as web:
        answer = web.post("/v1/recommend", json={"history": ["i1"] * 1000})
        assert (answer.status_code, answer.json()["detail"]) == (
            413,
            "the body is over 2,000 bytes",
        )
        assert web.post("/v1/recommend", json={"user": "u1"}).status_code == 200
    with client(shelf) as web:
        answer = web.post("/v1/recommend/batch", json={"requests": [{"user": "u1"}] * 257})
        assert answer.status_code == 422


def test_a_body_that_does_not_come_is_not_waited_for():
    sent = []

    async def never():
        await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/v1/recommend", "headers": []}
    guards = Guards(lambda *_: pytest.fail("reached"), Limits(body_seconds=0.05), None)
    asyncio.run(guards(scope, never, send))
    assert sent[0]["status"] == 408


def test_no_answer_in_time_is_said_and_the_next_one_is_answered(shelf, monkeypatch):
    plain = type(shelf).best
    slow = {"seconds": 0.5}

    def best(self, model, asks):
        time.sleep(slow["seconds"])
        return plain(self, model, asks)

    monkeypatch.setattr(type(shelf), "best", best)
    with client(shelf, limits=Limits(seconds=0.05)) as web:
        answer = web.post("/v1/recommend", json={"user": "u1"})
        assert (answer.status_code, answer.headers["retry-after"]) == (504, "1")
        slow["seconds"] = 0
        time.sleep(0.6)
        assert web.post("/v1/recommend", json={"user": "u1"}).status_code == 200


def test_a_full_queue_is_a_503(shelf):
    with client(shelf, queue=1) as web:
        answer = web.post("/v1/recommend/batch", json={"requests": [{"user": "u1"}] * 2})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_a_failure_of_ours_shows_nothing_of_the_inside(shelf, monkeypatch):
    def broken(*_):
        raise RuntimeError("secret /path")

    monkeypatch.setattr(type(shelf), "best", broken)
    with client(shelf) as web:
        answer = web.post("/v1/recommend", json={"user": "u1"})
    assert answer.status_code == 500
    assert answer.json() == {"detail": "the service failed; its log says why"}


def test_a_key_is_asked_of_all_but_the_page_and_the_load_balancer(shelf):
    with client(shelf, api_key="gehéim") as web:
        assert web.get("/health").status_code == 200
        assert web.get("/").status_code == 200
        for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}):
            answer = web.post("/v1/recommend", json={"user": "u1"}, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        for path in ("/v1/models", "/v1/items", "/v1/users", "/docs", "/openapi.json", "/nothing"):
            assert web.get(path).status_code == 401
        key = "gehéim".encode()
        assert web.get("/v1/models", headers={"x-api-key": key}).status_code == 200
        bearer = {"authorization": b"bearer " + key}
        assert web.post("/v1/recommend", json={"user": "u1"}, headers=bearer).status_code == 200


def test_without_the_page_nothing_lists_users(shelf):
    with client(shelf, page=False) as web:
        for path in ("/", "/v1/items", "/v1/users"):
            assert web.get(path).status_code == 404
        assert web.post("/v1/compare", json={"user": "u1"}).status_code == 404
        assert web.post("/v1/recommend", json={"user": "u1"}).status_code == 200


def test_what_the_page_looks_up(web, shelf):
    found = web.get("/v1/items", params={"query": "title of i3"}).json()
    assert found == {"ids": ["i3"], "titles": ["Title of i3"]}
    assert web.get("/v1/users", params={"query": "u29"}).json()["ids"] == ["u29"]
    told = web.post("/v1/compare", json={"user": "u1", "k": 3}).json()
    assert [len(side["items"]) for side in told["sides"]] == [3, 3]
    assert "default-src 'none'" in web.get("/").headers["content-security-policy"]


def test_the_schema_names_every_route(web):
    paths = web.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        *("/health", "/v1/models", "/v1/recommend", "/v1/recommend/batch"),
        *("/v1/compare", "/v1/items", "/v1/users"),
    }
