"""Many at once, a run that changes below, and a queue that is full."""

import asyncio
import threading

import pytest

from recoach.errors import ModelError
from recoach.serving import service as module
from recoach.serving.service import OverloadedError, Service


def wish(shelf, user, k=5):
    return shelf.ask(user=user, history=None, k=k, exclude_seen=True, candidates=None)


def serving(load, stamp=lambda: 0, **settings):
    return Service(load, stamp, **settings)


def test_each_gets_his_own_list_though_ranked_together(shelf, monkeypatch):
    sizes = []
    plain = type(shelf).best

    def counted(self, model, asks):
        sizes.append(len(asks))
        return plain(self, model, asks)

    monkeypatch.setattr(type(shelf), "best", counted)
    users = [f"u{n % 30}" for n in range(200)]

    async def ask_all():
        async with serving(lambda: shelf) as service:
            return await asyncio.gather(
                *(
                    service.best(shelf, "base" if n % 2 else "tuned", [wish(shelf, user)])
                    for n, user in enumerate(users)
                )
            )

    answers = asyncio.run(ask_all())
    assert max(sizes) > 8
    assert max(sizes) <= module.AT_ONCE
    for n, (user, answer) in enumerate(zip(users, answers, strict=True)):
        alone = plain(shelf, "base" if n % 2 else "tuned", [wish(shelf, user)])[0]
        assert answer[0].items.tolist() == alone.items.tolist()


def test_a_change_is_served_and_those_who_asked_before_get_the_old(make_shelf):
    shelves = {0: make_shelf("one"), 1: make_shelf("two", seed=5)}
    state = {"stamp": 0}

    async def follow():
        async with serving(
            lambda: shelves[state["stamp"]], lambda: state["stamp"], reload_seconds=0.01
        ) as service:
            old = service.shelf
            before = service.best(old, "tuned", [wish(old, "u3")])
            state["stamp"] = 1
            while service.shelf.version == "one":
                await asyncio.sleep(0.01)
            after = await service.best(service.shelf, "tuned", [wish(service.shelf, "u3")])
            return await before, after

    before, after = asyncio.run(follow())
    for shelf, answer in ((shelves[0], before), (shelves[1], after)):
        alone = shelf.best("tuned", [wish(shelf, "u3")])[0]
        assert answer[0].items.tolist() == alone.items.tolist()
        assert answer[0].scores == alone.scores
    assert before[0].scores != after[0].scores


def test_a_damaged_change_leaves_the_old_one_in_service_until_it_is_mended(make_shelf):
    state = {"stamp": 0}

    def load():
        if state["stamp"] == 1:
            raise ModelError("half a file")
        return make_shelf(str(state["stamp"]))

    async def follow():
        async with serving(load, lambda: state["stamp"], reload_seconds=0.01) as service:
            state["stamp"] = 1
            while not service.trouble:
                await asyncio.sleep(0.01)
            assert service.trouble == "half a file"
            assert service.shelf.version == "0"
            state["stamp"] = 2
            while service.trouble:
                await asyncio.sleep(0.01)
            assert service.shelf.version == "2"

    asyncio.run(follow())


def test_a_full_queue_refuses_and_recovers(shelf, monkeypatch):
    go = threading.Event()
    plain = type(shelf).best
    monkeypatch.setattr(
        type(shelf), "best", lambda self, model, asks: go.wait(10) and plain(self, model, asks)
    )

    async def fill():
        async with serving(lambda: shelf, queue=3) as service:
            first = asyncio.create_task(service.best(shelf, "base", [wish(shelf, "u1")]))
            await asyncio.sleep(0.05)  # taken off the queue, on the ranking thread
            more = [
                asyncio.create_task(service.best(shelf, "base", [wish(shelf, "u2")]))
                for _ in range(3)
            ]
            await asyncio.sleep(0.05)
            with pytest.raises(OverloadedError, match="more than 3"):
                await service.best(shelf, "base", [wish(shelf, "u3")])
            go.set()
            await asyncio.gather(first, *more)
            return await service.best(shelf, "base", [wish(shelf, "u3")])

    assert len(asyncio.run(fill())[0].items) == 5


def test_who_has_gone_is_not_ranked_for(shelf, monkeypatch):
    go, asked = threading.Event(), []
    plain = type(shelf).best

    def slow(self, model, asks):
        asked.extend(ask.user for ask in asks)
        go.wait(10)
        return plain(self, model, asks)

    monkeypatch.setattr(type(shelf), "best", slow)

    async def leave():
        async with serving(lambda: shelf) as service:
            first = asyncio.create_task(service.best(shelf, "base", [wish(shelf, "u1")]))
            await asyncio.sleep(0.05)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await service.best(shelf, "base", [wish(shelf, "u2")])
            go.set()
            await first
            await service.best(shelf, "base", [wish(shelf, "u3")])

    asyncio.run(leave())
    assert asked == [shelf.users["u1"], shelf.users["u3"]]


def test_a_failure_reaches_all_who_asked_and_the_service_goes_on(shelf, monkeypatch):
    plain = type(shelf).best

    async def fail():
        async with serving(lambda: shelf) as service:
            with pytest.raises(KeyError):
                await service.best(shelf, "no such model", [wish(shelf, "u1"), wish(shelf, "u2")])
            return await service.best(shelf, "base", [wish(shelf, "u1")])

    expected = plain(shelf, "base", [wish(shelf, "u1")])[0]
    assert asyncio.run(fail())[0].items.tolist() == expected.items.tolist()
