"""The comparison page in Chromium, against a running server."""

import os
import re
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

uvicorn = pytest.importorskip("uvicorn", reason="the serve extra is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from recoach.serving.app import build_app  # noqa: E402 - needs the extra
from recoach.serving.explanations import compare_models, hold_out  # noqa: E402
from recoach.serving.routing import Routing  # noqa: E402
from recoach.serving.service import Service  # noqa: E402
from recoach.serving.snapshot import ModelSnapshot  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = Path(os.environ.get("RECOACH_AXE", "node_modules/axe-core/axe.min.js"))
"""Script of the npm package axe-core, which checks accessibility."""
NO_VIOLATIONS = """axe.run({runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa",
    "best-practice"]}).then(found => found.violations.map(one => [one.id, one.nodes[0].html]))"""
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
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(30_000)
    errors = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda line: errors.extend(re.findall(".*Security Policy.*", line.text)))
    yield opened
    opened.close()
    assert not errors


@pytest.fixture(scope="module")
def url(snapshot):
    with RunningServer(snapshot) as address:
        yield address


def compared(snapshot, user, k, *, with_test_items=False):
    """Return the comparison that the page shows for a user."""
    query = snapshot.build_query(user=user, history=None, k=k, exclude_seen=True, candidates=None)
    if with_test_items:
        return compare_models(snapshot, query)
    return compare_models(snapshot, *hold_out(snapshot, user, query))


def rows_of(page, selector):
    """Return (title, texts of the badges) of each item of a list."""
    return [
        (
            row.locator(".title").inner_text(),
            [badge.lower() for badge in row.locator(".badge").all_inner_texts()],
        )
        for row in page.locator(f"{selector} li").all()
    ]


def change(before, after):
    return "=" if before == after else f"{'↑' if after < before else '↓'}{abs(before - after)}"


def expected_rows(comparison, k):
    """Return the rows of both lists: badges have the change from the first to the second."""
    base, tuned = comparison.sides
    sides = []
    for side, word in ((base, "dropped "), (tuned, "new ")):
        rows = []
        for item in side.items:
            before, after = item.rank, item.other_rank
            if side is tuned:
                before, after = after, before
            badge = (word if item.other_rank > k else "") + change(before, after)
            rows.append((item.title, [badge, "hit"] if item.held_out else [badge]))
        sides.append(rows)
    return sides


def test_both_lists_of_a_user_are_shown_with_changes_and_hits(page, url, snapshot):
    comparisons = {f"u{n}": compared(snapshot, f"u{n}", 4) for n in range(30)}
    user, comparison = next(
        (user, comparison)
        for user, comparison in comparisons.items()
        if sum(rank <= 4 for rank in comparison.held_out[0].ranks) == 1
    )
    page.goto(url)
    page.locator("#about", has_text="20 items").wait_for()
    page.fill("#user", user)
    page.fill("#k", "4")
    page.click("text=Show lists")
    page.wait_for_selector("section.side")
    base, tuned = expected_rows(comparison, 4)
    assert page.locator("section.side h3").all_inner_texts() == ["base", "tuned"]
    assert rows_of(page, "section.side:nth-child(1)") == base
    assert rows_of(page, "section.side:nth-child(2)") == tuned
    assert not page.is_visible("section.merged")
    (held_out,) = comparison.held_out
    words = [
        f"{side.model} rank {rank}{'hit' if rank <= 4 else 'miss'}"
        for side, rank in zip(comparison.sides, held_out.ranks, strict=True)
    ]
    assert page.inner_text(".held-out") == f"Test item {held_out.title}: {' · '.join(words)}"
    assert "of 4 items are in both lists" in page.inner_text("#summary")


def test_a_phone_shows_one_list_with_the_dropped_items_below(page, url, snapshot):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{url}/?user=u3&k=4&hold_out=0")
    page.wait_for_selector("section.merged")
    base, tuned = expected_rows(compared(snapshot, "u3", 4, with_test_items=True), 4)
    dropped = [row for row in base if row[1][0].startswith("dropped")]
    assert dropped
    assert rows_of(page, "section.merged") == tuned + dropped
    assert not page.locator("section.side >> visible=true").count()
    assert not page.locator(".held-out").count()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390  # no horizontal scrolling


def test_a_run_with_one_model_shows_one_list(page, snapshot):
    models = {"base": snapshot.models["base"]}
    alone = ModelSnapshot(snapshot.dataset, models, snapshot.titles, "one")
    with RunningServer(alone) as address:
        page.goto(f"{address}/?user=u3&k=4")
        page.wait_for_selector("section.only")
        assert page.locator("section").count() == 1
        assert page.locator("section .badge:not(.hit)").count() == 0
        assert page.inner_text("h1") == "Recommendations"
        assert "one user" in page.inner_text("#intro")


def test_a_random_user_is_shown_at_an_address_that_can_be_sent(page, url):
    page.goto(url)
    assert "This page shows" in page.inner_text("#intro")
    page.click("text=Random user")
    page.wait_for_selector("section.side")
    user = page.input_value("#user")
    assert page.inner_text("#whose") == f"Recommendations for user {user}"
    address, lists = page.url, rows_of(page, "section.side")
    assert address == f"{url}/?user={user}&k=10"
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("section.side")
    assert rows_of(page, "section.side") == lists
    page.uncheck("#exclude-seen")
    page.click("text=Show lists")
    page.wait_for_url(address + "&exclude_seen=0")
    page.go_back()
    page.wait_for_url(address)
    assert page.is_checked("#exclude-seen")
    page.wait_for_selector("section.side")
    assert rows_of(page, "section.side") == lists


def test_items_of_a_new_user_are_found_by_their_whole_title(page, url):
    page.goto(url)
    page.check("text=a new user")
    assert not page.is_visible("#user")
    assert not page.is_visible("#hold-out")
    page.fill("#item", "title of i1")  # other titles begin with it
    page.wait_for_selector("#items option[value='i1']", state="attached")
    page.press("#item", "Enter")
    chips = page.locator("#history button")
    chips.nth(0).wait_for()
    page.fill("#item", "i2")
    page.click("text=Add")
    chips.nth(1).wait_for()
    assert chips.all_inner_texts() == ["Title of i1 ×", "Title of i2 ×"]
    chips.nth(1).press("Enter")
    assert chips.all_inner_texts() == ["Title of i1 ×"]
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == (
        "Remove Title of i1"
    )
    page.fill("#item", "title of i3")
    page.click("text=Show lists")  # adds what is typed
    page.wait_for_selector("section.side")
    assert page.inner_text("#shown-history") == "Title of i1 · Title of i3"
    assert page.url == f"{url}/?item=i1&item=i3&k=10"
    page.check("text=a user of the log")
    assert not page.is_visible("#history")
    page.fill("#user", "u3")
    page.click("text=Show lists")
    page.wait_for_selector("text=Recommendations for user u3")


def test_a_title_of_two_items_is_not_guessed(page, snapshot):
    titles = ["Same", "same", *snapshot.titles[2:]]
    with RunningServer(ModelSnapshot(snapshot.dataset, snapshot.models, titles, "one")) as address:
        page.goto(address)
        page.check("text=a new user")
        for text, message in (("SAME", "Several items match “SAME”"), ("none", "No item has")):
            page.fill("#item", text)
            page.click("text=Add")
            page.locator("#error", has_text=message).wait_for()
            assert page.input_value("#item") == text
        assert not page.locator("#history button").count()


def test_a_message_stays_until_the_next_input_and_clears_lists(page, url):
    page.goto(f"{url}/?user=u3&k=4")
    page.wait_for_selector("section.side")
    page.fill("#user", "nobody")
    page.click("text=Show lists")
    page.locator("#error", has_text="No user 'nobody'").wait_for()
    assert not page.is_visible("#result")
    page.wait_for_timeout(400)  # the suggestions for what was typed have arrived by now
    assert page.inner_text("#error").startswith("No user 'nobody' in the log.")
    page.fill("#user", "")
    assert page.inner_text("#error") == ""
    page.click("text=Show lists")
    page.locator("#error", has_text="Enter a user ID first").wait_for()


def test_the_key_is_kept_for_the_tab(page, browser, snapshot):
    with RunningServer(snapshot, api_key="secret") as address:
        page.goto(f"{address}/?user=u3")
        page.wait_for_selector("#key-form", state="visible")
        page.fill("#key", "wrong")
        page.press("#key", "Enter")
        page.locator("#error", has_text="No valid API key").wait_for()
        page.fill("#key", "secret")
        page.press("#key", "Enter")
        page.wait_for_selector("section.side")
        assert not page.is_visible("#key-form")
        page.reload()
        page.wait_for_selector("section.side")
        assert "secret" not in page.url
        other_tab = browser.new_page()
        other_tab.goto(address)
        other_tab.wait_for_selector("#key-form", state="visible")
        other_tab.close()


def test_everything_is_reached_by_keyboard_in_reading_order(page, url):
    page.goto(url)
    page.locator("#about", has_text="20 items").wait_for()
    reached = []
    for _ in range(7):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "[document.activeElement.id || document.activeElement.value,"
            " getComputedStyle(document.activeElement).outlineWidth]"
        )
        reached.append(name)
        assert outline == "3px", name
    assert reached == ["user", "user", "random", "k", "exclude-seen", "hold-out", "show"]
    page.focus("#random")
    page.keyboard.press("Enter")
    page.wait_for_selector("section.side")


def test_the_policy_allows_the_scripts_of_the_page_only(page, url):
    response = page.goto(url)
    policy = response.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert re.search(r"script-src 'sha256-[\w+/=]{44}';", policy)
    assert not re.search(r"(src|href)=|@import|https?://", response.text())


@pytest.mark.slow
@pytest.mark.skipif(not AXE.exists(), reason="npm package axe-core is not there (RECOACH_AXE)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_no_violation(page, url, scheme, width):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    for address, selector in (
        ("/", "#about:not(:empty)"),
        ("/?user=u3", "#lists section"),
        ("/?item=i1&item=i2", "#lists section"),
        ("/?user=nobody", "#error:not(:empty)"),
        ("/docs", "section"),
    ):
        page.goto(url + address)
        page.locator(f"{selector} >> visible=true").first.wait_for()
        page.evaluate(AXE.read_text(encoding="utf-8"))
        assert page.evaluate(NO_VIOLATIONS) == [], address


def test_titles_are_not_interpreted_as_html(page, snapshot):
    attack = "<img src=x onerror=\"document.title='taken over'\">"
    hostile = ModelSnapshot(
        snapshot.dataset, snapshot.models, [attack] * len(snapshot.titles), "one"
    )
    with RunningServer(hostile) as url:
        page.goto(url)
        page.fill("#user", "u3")
        page.click("text=Show lists")
        page.wait_for_selector("section.side")
        assert page.locator("section.side .title").first.inner_text() == attack
        assert page.locator("section.side img").count() == 0
        assert page.title() == "Recoach"
