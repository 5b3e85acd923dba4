"""Several runs in one service: who answers whom, what is shown and what is logged."""

import re
import time

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")
from fastapi.testclient import TestClient

from recoach.serving.app import build_app
from recoach.serving.exploration import ServedPolicy
from recoach.serving.exposures import ExposureLog, read_exposures
from recoach.serving.recommend import recommend
from recoach.serving.routing import Routing
from recoach.serving.service import Service
from recoach.serving.shadow import ShadowQueue
from recoach.serving.split import Split, history_hash


def make_client(snapshots, **settings):
    services = {
        run: Service(lambda snapshot=snapshot: snapshot, lambda: 0)
        for run, snapshot in snapshots.items()
    }
    return TestClient(build_app(Routing(services, **settings)))


@pytest.fixture(scope="module")
def snapshots(make_snapshot):
    return {"A": make_snapshot("one", seed=1), "B": make_snapshot("two", seed=2)}


def lists_of(client, requests):
    return [client.post("/v1/recommend", json=request).json() for request in requests]


def item_ids(answers):
    return [[item["item_id"] for item in answer["items"]] for answer in answers]


def test_each_user_and_each_history_is_answered_by_its_run(snapshots):
    split = Split({"A": 0.5, "B": 0.5}, "salt")
    requests = [{"user": f"u{number}", "k": 3} for number in range(20)]
    requests += [{"history": [f"i{number}"], "k": 3} for number in range(10)]
    with make_client(snapshots, split=split) as client:
        answers = lists_of(client, requests)
        again = lists_of(client, requests)
        batch = client.post("/v1/recommend/batch", json={"requests": requests}).json()["responses"]
        models = client.get("/v1/models").json()["models"]
    assert [answer["run"] for answer in answers[:20]] == [
        split.arm_of(f"user:u{number}") for number in range(20)
    ]
    for answer in answers:
        assert answer["version"] == {"A": "one", "B": "two"}[answer["run"]]
    for run in ("A", "B"):
        assert 3 < sum(answer["run"] == run for answer in answers) < 27
        assert {answer["run"] for answer in answers[20:]} == {"A", "B"}
    for other in (again, batch):
        assert [answer["run"] for answer in other] == [answer["run"] for answer in answers]
        assert item_ids(other) == item_ids(answers)
    user = next(number for number in range(20) if answers[number]["run"] == "B")
    frame = recommend(snapshots["B"].models["tuned"], snapshots["B"].dataset, [f"u{user}"], k=3)
    assert [item["item_id"] for item in answers[user]["items"]] == frame["item_id"].to_list()
    named = [(model["run"], model["name"], model["version"]) for model in models]
    assert named == [("A", "base", "one"), ("A", "tuned", "one"), ("B", "base", "two"),
                     ("B", "tuned", "two")]  # fmt: skip


def test_what_is_shown_is_logged_under_the_id_of_the_request(snapshots, tmp_path):
    log = ExposureLog(tmp_path)
    split = Split({"A": 1.0, "B": 0.0}, "salt")
    with make_client(snapshots, split=split, salt="pepper", exposures=log) as client:
        start = time.time_ns() // 1_000_000
        headers = {"X-Request-ID": "call-1"}
        one = client.post("/v1/recommend", json={"user": "u3", "k": 4}, headers=headers).json()
        requests = [{"history": ["i3", "nothing"], "k": 2, "model": "base"}, {"user": "u4", "k": 1}]
        batch = client.post("/v1/recommend/batch", json={"requests": requests}).json()["responses"]
        client.post("/v1/recommend", json={"user": "u3", "model": "none"})
        client.post("/v1/compare", json={"user": "u3"})  # shown to people who compare
    assert not log._thread.is_alive()  # it is closed with the service
    frame = read_exposures(tmp_path)
    assert one["impression_id"] == "call-1"
    assert [answer["impression_id"][-2:] for answer in batch] == ["/0", "/1"]
    answers = [one, *batch]
    assert frame["impression_id"].unique(maintain_order=True).to_list() == [
        answer["impression_id"] for answer in answers
    ]
    items = [item for answer in answers for item in answer["items"]]
    assert frame["item_id"].to_list() == [item["item_id"] for item in items]
    assert frame["position"].to_list() == [item["rank"] for item in items]
    assert frame["score"].to_list() == pytest.approx([item["score"] for item in items])
    assert frame["propensity"].to_list() == [1.0] * 7
    assert frame["user_id"].to_list() == ["u3"] * 4 + [None] * 2 + ["u4"]
    hashed = history_hash("pepper", ["i3", "nothing"])
    assert frame["history_hash"].to_list() == [None] * 4 + [hashed] * 2 + [None]
    assert frame["model"].to_list() == ["tuned"] * 4 + ["base"] * 2 + ["tuned"]
    assert set(frame.select("run", "version", "policy").rows()) == {("A", "one", "top-k")}
    assert start <= frame["timestamp"].min() <= frame["timestamp"].max() < start + 60_000


def test_an_exploring_service_logs_the_propensities_of_what_it_sends(snapshots, tmp_path):
    log = ExposureLog(tmp_path)
    policy = ServedPolicy(1.0)
    with make_client(snapshots, policy=policy, exposures=log) as client:
        answers = [
            client.post(
                "/v1/recommend", json={"user": "u3", "k": 5}, headers={"X-Request-ID": f"r{n % 3}"}
            ).json()
            for n in range(6)
        ]
    lists = item_ids(answers)
    assert lists[:3] == lists[3:]  # the same request gets the same list
    assert len({tuple(one) for one in lists}) == 3
    frame = read_exposures(tmp_path).head(5)
    assert frame["item_id"].to_list() == lists[0]
    model, dataset = snapshots["A"].models["tuned"], snapshots["A"].dataset
    scores = recommend(model, dataset, ["u3"], k=100)["score"].exp()
    assert frame["propensity"][0] == pytest.approx(frame["score"].exp()[0] / scores.sum(), rel=1e-5)
    assert frame["policy"].unique().to_list() == ["plackett-luce(1)"]


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "ü", "{}"])
def test_another_id_replaces_one_that_no_log_should_hold(snapshots, sent):
    with make_client(snapshots) as client:
        headers = {"X-Request-ID": sent.encode()}
        answer = client.post("/v1/recommend", json={"user": "u3"}, headers=headers).json()
    assert len(answer["impression_id"]) == 32


def shadow_requests(client):
    text = client.get("/metrics").text
    found = [
        re.search(rf'recoach_shadow_requests_total{{outcome="{name}"}} (.*)', text)
        for name in ("submitted", "dropped")
    ]
    return [float(match[1]) if match else 0 for match in found]


def test_the_shadow_receives_requests_after_they_are_answered_and_drops_what_is_too_much(
    snapshots, monkeypatch
):
    monkeypatch.setattr("recoach.serving.shadow._QUEUE_SIZE", 3)
    shadow = ShadowQueue()
    with make_client(snapshots, shadow=shadow) as client:
        before = shadow_requests(client)
        requests = [{"user": "u1", "k": 2}, {"history": ["i3"]}]
        batch = client.post("/v1/recommend/batch", json={"requests": requests}).json()["responses"]
        client.post("/v1/recommend", json={"user": "u3", "model": "none"})
        for _ in range(3):
            assert client.post("/v1/recommend", json={"user": "u2"}).status_code == 200
        after = shadow_requests(client)
    assert [n - m for n, m in zip(after, before, strict=True)] == [3, 2]
    jobs = [shadow.get() for _ in range(3)]
    assert [job.impression_id for job in jobs[:2]] == [one["impression_id"] for one in batch]
    assert [(job.request.user, job.request.k) for job in jobs] == [
        ("u1", 2), (None, 10), ("u2", 10),
    ]  # fmt: skip
    assert jobs[1].history_hash == history_hash("recoach", ["i3"])
    assert shadow.get() is None


def test_a_service_that_drains_is_alive_but_not_ready(snapshots):
    service = Service(lambda: snapshots["A"], lambda: 0)
    routing = Routing({"A": service})
    with TestClient(build_app(routing, api_key="secret")) as client:
        assert [client.get(path).status_code for path in ("/live", "/ready")] == [200, 200]
        routing.is_draining = True
        assert client.get("/live").status_code == 200
        ready = client.get("/ready")
        assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
        headers = {"X-API-Key": "secret"}
        answer = client.post("/v1/recommend", json={"user": "u3"}, headers=headers)
        assert answer.status_code == 200
