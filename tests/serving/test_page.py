"""The comparison page in Chromium, against a running server."""

import os
import shutil
import socket
import threading
import time

import pytest

uvicorn = pytest.importorskip("uvicorn", reason="the serve extra is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from recoach.serving.app import build_app  # noqa: E402 - needs the extra
from recoach.serving.routing import Routing  # noqa: E402
from recoach.serving.service import Service  # noqa: E402
from recoach.serving.snapshot import ModelSnapshot  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "RECOACH_NEEDS_BROWSER" not in os.environ,
    reason="no chromium on this machine",
)


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "RECOACH_NEEDS_BROWSER is set, but chromium is not installed"
    with playwright.sync_playwright() as api:
        opened = api.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class RunningServer:
    """A service in a thread, on a free port."""

    def __init__(self, snapshot, **settings):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        app = build_app(Routing({"run": Service(lambda: snapshot, lambda: 0)}), **settings)
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error", loop="asyncio"))
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return self.url

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()


@pytest.fixture
def page(browser):
    opened = browser.new_page(viewport={"width": 390, "height": 800})
    opened.set_default_timeout(10_000)
    errors = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    opened.close()
    assert not errors


def test_both_lists_of_a_user_are_shown(page, snapshot):
    with RunningServer(snapshot) as url:
        page.goto(url)
        page.locator("#about", has_text="20 items").wait_for()
        page.fill("#user", "u3")
        page.fill("#k", "4")
        page.click("text=Show both lists")
        page.wait_for_selector("section.side")
        query = snapshot.build_query(
            user="u3", history=None, k=4, exclude_seen=True, candidates=None
        )
        for index, name in enumerate(("base", "tuned")):
            side = page.locator("section.side").nth(index)
            assert side.locator("h2").inner_text() == name
            expected = [
                snapshot.titles[item] for item in snapshot.recommend(name, [query])[0].items
            ]
            assert side.locator("li > span:first-child").all_inner_texts() == expected
        assert "of 4 items are in both lists" in page.inner_text("#words")
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390  # no horizontal scrolling on a phone


def test_history_items_are_added_by_title_and_removed(page, snapshot):
    with RunningServer(snapshot) as url:
        page.goto(url)
        page.fill("#item", "title of i1")
        page.wait_for_selector("#items option[value='i1']", state="attached")
        for item in ("i1", "i2"):
            page.fill("#item", item)
            page.press("#item", "Enter")
        assert page.locator("#history .chip").count() == 2
        page.click("#history .chip >> nth=1")
        assert page.locator("#history .chip").all_inner_texts() == ["Title of i1 ×"]
        page.click("text=Show both lists")
        page.wait_for_selector("section.side")
        assert page.inner_text("#shown-history").endswith("Title of i1")


def test_error_messages_are_shown(page, snapshot):
    with RunningServer(snapshot) as url:
        page.goto(url)
        page.click("text=Show both lists")
        page.locator("#error", has_text="choose items").wait_for()
        assert page.inner_text("#error") == "Enter a user ID or choose items first."
        page.fill("#user", "nobody")
        page.click("text=Show both lists")
        page.locator("#error", has_text="No user 'nobody'").wait_for()
        page.wait_for_timeout(600)  # the suggestions for what was typed have arrived by now
        assert page.inner_text("#error").startswith("No user 'nobody' in the log.")


def test_the_page_asks_for_the_key_and_sends_it(page, snapshot):
    with RunningServer(snapshot, api_key="secret") as url:
        page.goto(url)
        page.wait_for_selector("#key-box", state="visible")
        page.fill("#key", "secret")
        page.press("#key", "Tab")
        page.locator("#about", has_text="20 items").wait_for()
        page.fill("#user", "u3")
        page.click("text=Show both lists")
        page.wait_for_selector("section.side")


def test_titles_are_not_interpreted_as_html(page, snapshot):
    attack = "<img src=x onerror=\"document.title='taken over'\">"
    hostile = ModelSnapshot(
        snapshot.dataset, snapshot.models, [attack] * len(snapshot.titles), "one"
    )
    with RunningServer(hostile) as url:
        page.goto(url)
        page.fill("#user", "u3")
        page.click("text=Show both lists")
        page.wait_for_selector("section.side")
        assert page.locator("section.side li > span:first-child").first.inner_text() == attack
        assert page.locator("section.side img").count() == 0
        assert page.title() == "Recoach"
