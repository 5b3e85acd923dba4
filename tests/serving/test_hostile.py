"""Callers who mean harm, and many at once while the run changes."""

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
from recoach.serving.service import Service

POSTS = ("/v1/recommend", "/v1/recommend/batch", "/v1/compare")
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def web(shelf):
    service = Service(lambda: shelf, lambda: 0)
    with TestClient(build_app(service), raise_server_exceptions=False) as opened:
        yield opened


def assert_tame(answer, statuses=(200, 400, 404, 405, 413, 422)):
    assert answer.status_code in statuses, (answer.status_code, answer.text[:300])
    for word in ("Traceback", "/src/", "site-packages", "recoach/", ".py"):
        assert word not in answer.text
    if answer.status_code >= 400:
        assert set(answer.json()) == {"detail"}


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
def test_odd_bodies_are_answered_tamely(web, path, body):
    assert_tame(web.post(path, content=body, headers=JSON))


def test_ten_megabytes_are_refused(web):
    for path in POSTS:
        assert_tame(web.post(path, content=bytes(10 << 20), headers=JSON), (413,))
    assert web.post("/v1/recommend", json={"user": "u1"}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/v1/%2e%2e/", "/v1/items?query=" + "a" * 9999, "/v1/nothing"]
)
def test_odd_paths_are_answered_tamely(web, path):
    assert_tame(web.get(path))


@pytest.mark.parametrize("text", ["(", "[a-", "\\", "%", "\x00", "é" * 200, "<script>", "' OR 1=1"])
def test_what_is_looked_up_is_text_and_no_pattern(web, text):
    for path in ("/v1/items", "/v1/users"):
        answer = web.get(path, params={"query": text})
        assert_tame(answer, (200,))
        assert answer.json()["ids"] == []


odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
wish = st.fixed_dictionaries(
    {},
    optional={
        "user": st.sampled_from(["u1", "u29", "nobody"]) | odd,
        "history": st.lists(st.sampled_from(["i1", "i3", "x"])) | odd,
        "k": st.integers(-2, 1200) | odd,
        "exclude_seen": st.booleans() | odd,
        "candidates": st.lists(st.sampled_from(["i1", "i2", "x"])) | odd,
        "model": st.sampled_from(["base", "tuned", "best"]) | odd,
    },
)


def fuzz(web, examples):
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples < 1000,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(
        st.sampled_from(POSTS),
        wish | st.fixed_dictionaries({"requests": st.lists(wish, max_size=3)}) | odd,
    )
    def tried(path, body):
        content = json.dumps(body).encode("utf-8", "surrogatepass")
        assert_tame(web.post(path, content=content, headers=JSON))

    tried()


def test_any_json_is_answered_tamely(web):
    fuzz(web, 150)


@pytest.mark.slow
def test_very_much_json_is_answered_tamely(web):
    fuzz(web, 20_000)


def test_keys_are_compared_in_constant_time(shelf, monkeypatch):
    compared = []

    def compare(shown, kept):
        compared.append((shown, kept))
        return hmac.compare_digest(shown, kept)

    fake = type("hmac", (), {"compare_digest": staticmethod(compare)})
    monkeypatch.setattr(limits, "hmac", fake)
    app = build_app(Service(lambda: shelf, lambda: 0), api_key="secret")
    with TestClient(app) as web:
        for key in ("", "s", "secret", "secretly"):
            web.get("/v1/models", headers={"x-api-key": key})
    assert compared == [(key.encode(), b"secret") for key in ("", "s", "secret", "secretly")]


def at_once(app, service, wishes, change):
    """Ask 64 at a time; after a third of the answers the run changes."""
    import httpx2 as httpx

    async def ask_all():
        gate, answers = asyncio.Semaphore(64), [None] * len(wishes)
        transport = httpx.ASGITransport(app=app)

        async def ask(web, place):
            async with gate:
                answers[place] = await web.post("/v1/recommend", json=wishes[place])
                if place == len(wishes) // 3:
                    change()

        async with service, httpx.AsyncClient(transport=transport, base_url="http://x") as web:
            await asyncio.gather(*(ask(web, place) for place in range(len(wishes))))
        return answers

    return asyncio.run(ask_all())


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_answer_is_lost_or_wrong_while_the_run_changes(make_shelf, dataset, count):
    shelves = {"one": make_shelf("one"), "two": make_shelf("two", seed=5)}
    state = {"now": "one"}
    service = Service(lambda: shelves[state["now"]], lambda: state["now"], reload_seconds=0.01)
    wishes = [
        {"user": f"u{n % 30}", "k": 1 + n % 7, "model": ("base", "tuned")[n % 2]}
        for n in range(count)
    ]
    users = dataset.user_ids.to_list()
    offline = {
        (version, model): recommend(shelves[version].models[model], dataset, users, k=7)
        for version in shelves
        for model in ("base", "tuned")
    }
    lists = {
        key: frame.group_by("user_id", maintain_order=True).agg("item_id").rows_by_key("user_id")
        for key, frame in offline.items()
    }
    answers = at_once(build_app(service), service, wishes, lambda: state.update(now="two"))
    seen = set()
    for asked, answer in zip(wishes, answers, strict=True):
        assert answer.status_code == 200
        told = answer.json()
        seen.add(told["version"])
        expected = lists[told["version"], asked["model"]][asked["user"]][0][0]
        assert [item["item_id"] for item in told["items"]] == expected[: asked["k"]]
    assert seen == {"one", "two"}


def test_what_goes_wrong_inside_is_logged_and_not_shown(shelf, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(type(shelf), "find_items", broken)
    app = build_app(Service(lambda: shelf, lambda: 0))
    with TestClient(app, raise_server_exceptions=False) as web:
        answer = web.get("/v1/items", params={"query": "a"})
    assert answer.status_code == 500
    assert answer.json() == {"detail": "the service failed; its log says why"}
    shown = "".join(traceback.format_exception(caplog.records[0].exc_info[1]))
    assert "/secret/path" in shown
