"""Concurrent queries, reloads and a full queue."""

import asyncio
import threading
from dataclasses import replace

import pytest

pytest.importorskip("prometheus_client", reason="the serve extra is not installed")
from recoach.errors import ModelError, RecoachError
from recoach.serving import service as module
from recoach.serving.service import OverloadedError, Service


def query(snapshot, user, k=5):
    return snapshot.build_query(user=user, history=None, k=k, exclude_seen=True, candidates=None)


def make_service(load, fingerprint=lambda: 0, **settings):
    return Service(load, fingerprint, **settings)


def test_batched_queries_get_the_lists_of_single_queries(snapshot, monkeypatch):
    sizes = []
    original = type(snapshot).recommend

    def counted(self, model, queries):
        sizes.append(len(queries))
        return original(self, model, queries)

    monkeypatch.setattr(type(snapshot), "recommend", counted)
    users = [f"u{n % 30}" for n in range(200)]

    async def send_all():
        async with make_service(lambda: snapshot) as service:
            return await asyncio.gather(
                *(
                    service.recommend(
                        snapshot, "base" if n % 2 else "tuned", [query(snapshot, user)]
                    )
                    for n, user in enumerate(users)
                )
            )

    results = asyncio.run(send_all())
    assert max(sizes) > 8
    assert max(sizes) <= module.MICRO_BATCH_SIZE
    for n, (user, result) in enumerate(zip(users, results, strict=True)):
        expected = original(snapshot, "base" if n % 2 else "tuned", [query(snapshot, user)])[0]
        assert result[0].items.tolist() == expected.items.tolist()


def test_a_reload_serves_new_weights_and_pending_queries_get_the_old_ones(make_snapshot):
    snapshots = {0: make_snapshot("one"), 1: make_snapshot("two", seed=5)}
    state = {"version": 0}

    async def follow():
        async with make_service(
            lambda: snapshots[state["version"]], lambda: state["version"], reload_seconds=0.01
        ) as service:
            old = service.snapshot
            before = service.recommend(old, "tuned", [query(old, "u3")])
            state["version"] = 1
            while service.snapshot.version == "one":
                await asyncio.sleep(0.01)
            after = await service.recommend(
                service.snapshot, "tuned", [query(service.snapshot, "u3")]
            )
            return await before, after

    before, after = asyncio.run(follow())
    for snapshot, result in ((snapshots[0], before), (snapshots[1], after)):
        expected = snapshot.recommend("tuned", [query(snapshot, "u3")])[0]
        assert result[0].items.tolist() == expected.items.tolist()
        assert result[0].scores == expected.scores
    assert before[0].scores != after[0].scores


def test_a_failed_reload_keeps_the_old_snapshot_until_the_run_is_repaired(make_snapshot):
    state = {"version": 0}

    def load():
        if state["version"] == 1:
            raise ModelError("half a file")
        return make_snapshot(str(state["version"]))

    async def follow():
        async with make_service(load, lambda: state["version"], reload_seconds=0.01) as service:
            state["version"] = 1
            while not service.reload_error:
                await asyncio.sleep(0.01)
            assert "version 0 is still served" in service.reload_error
            assert "half" not in service.reload_error  # it may name files
            assert service.snapshot.version == "0"
            state["version"] = 2
            while service.reload_error:
                await asyncio.sleep(0.01)
            assert service.snapshot.version == "2"

    asyncio.run(follow())


def test_a_full_queue_rejects_queries_and_recovers(snapshot, monkeypatch):
    release = threading.Event()
    original = type(snapshot).recommend
    monkeypatch.setattr(
        type(snapshot),
        "recommend",
        lambda self, model, queries: release.wait(10) and original(self, model, queries),
    )

    async def fill():
        async with make_service(lambda: snapshot, queue_size=3) as service:
            first = asyncio.create_task(
                service.recommend(snapshot, "base", [query(snapshot, "u1")])
            )
            await asyncio.sleep(0.05)  # off the queue, in the ranking thread
            more = [
                asyncio.create_task(service.recommend(snapshot, "base", [query(snapshot, "u2")]))
                for _ in range(3)
            ]
            await asyncio.sleep(0.05)
            with pytest.raises(OverloadedError, match="queue of 3 requests is full"):
                await service.recommend(snapshot, "base", [query(snapshot, "u3")])
            release.set()
            await asyncio.gather(first, *more)
            return await service.recommend(snapshot, "base", [query(snapshot, "u3")])

    assert len(asyncio.run(fill())[0].items) == 5


def test_cancelled_queries_are_not_ranked(snapshot, monkeypatch):
    release, ranked_users = threading.Event(), []
    original = type(snapshot).recommend

    def slow(self, model, queries):
        ranked_users.extend(query.user for query in queries)
        release.wait(10)
        return original(self, model, queries)

    monkeypatch.setattr(type(snapshot), "recommend", slow)

    async def cancel_one():
        async with make_service(lambda: snapshot) as service:
            first = asyncio.create_task(
                service.recommend(snapshot, "base", [query(snapshot, "u1")])
            )
            await asyncio.sleep(0.05)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await service.recommend(snapshot, "base", [query(snapshot, "u2")])
            release.set()
            await first
            await service.recommend(snapshot, "base", [query(snapshot, "u3")])

    asyncio.run(cancel_one())
    assert ranked_users == [snapshot.user_index["u1"], snapshot.user_index["u3"]]


def test_an_error_reaches_every_caller_and_the_service_continues(snapshot, monkeypatch):
    original = type(snapshot).recommend

    async def fail():
        async with make_service(lambda: snapshot) as service:
            with pytest.raises(KeyError):
                await service.recommend(
                    snapshot, "no such model", [query(snapshot, "u1"), query(snapshot, "u2")]
                )
            return await service.recommend(snapshot, "base", [query(snapshot, "u1")])

    expected = original(snapshot, "base", [query(snapshot, "u1")])[0]
    assert asyncio.run(fail())[0].items.tolist() == expected.items.tolist()


def test_a_reload_without_the_tuned_model_keeps_the_old_snapshot(make_snapshot, caplog):
    state = {"version": 0}

    def load():
        loaded = make_snapshot(str(state["version"]))
        if state["version"] == 1:
            return replace(loaded, models={"base": loaded.models["base"]})
        return loaded

    async def follow():
        async with make_service(load, lambda: state["version"], reload_seconds=0.01) as service:
            state["version"] = 1
            while not service.reload_error:
                await asyncio.sleep(0.01)
            assert service.snapshot.default_model == "tuned"
            assert "version 0 is still served" in service.reload_error

    asyncio.run(follow())
    assert "the tuned model is no longer there" in caplog.text


def test_look_ups_run_beside_the_ranking_and_are_limited(snapshot):
    release = threading.Event()

    async def follow():
        async with make_service(lambda: snapshot, max_lookups=3) as service:
            blocked = [asyncio.create_task(service.look_up(release.wait)) for _ in range(3)]
            await asyncio.sleep(0.01)
            with pytest.raises(OverloadedError, match="queue of 3 look-ups is full"):
                await service.look_up(lambda: 1)
            ranked = await asyncio.wait_for(
                service.recommend(snapshot, "base", [query(snapshot, "u3")]), 5
            )
            release.set()
            assert await asyncio.gather(*blocked) == [True, True, True]
            assert await service.look_up(lambda: 1) == 1
            return ranked

    assert len(asyncio.run(follow())[0].items) == 5


def test_a_look_up_that_fails_raises_its_error_and_frees_its_place(snapshot):
    async def follow():
        async with make_service(lambda: snapshot, max_lookups=1) as service:
            for _ in range(3):
                with pytest.raises(ZeroDivisionError):
                    await service.look_up(lambda: 1 // 0)

    asyncio.run(follow())


def test_a_reload_with_items_in_another_order_keeps_the_old_snapshot(make_snapshot, caplog):
    first = make_snapshot("0")
    shuffled = replace(first.dataset, item_ids=first.dataset.item_ids.reverse())
    state = {"version": 0}

    def load():
        return first if state["version"] == 0 else replace(first, dataset=shuffled, version="1")

    async def follow():
        async with make_service(load, lambda: state["version"], reload_seconds=0.01) as service:
            state["version"] = 1
            async with asyncio.timeout(10):
                while not service.reload_error:
                    await asyncio.sleep(0.01)
            return service

    service = asyncio.run(follow())
    assert service.snapshot is first
    assert "version 0 is still served" in service.reload_error
    assert "ids" in caplog.text
    with pytest.raises(RecoachError, match="ids"):
        make_service(lambda: replace(first, dataset=shuffled))
