"""The page of a shared world in a real browser: two people in one world, a server that ends and comes back.

Needs Debian's chromium. Run: pytest tests/world/test_shared_page.py
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from play_server import TOKEN, shared_server
from playwright.sync_api import Browser, Page, expect, sync_playwright

from unimodel.training.loaded_run import LoadedRun
from unimodel.world.sessions.catalogue import delete_world
from unimodel.world.sessions.from_run import create_world

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
WAIT_MS = 60_000
"""Longest wait for what must come; nothing is measured with it."""
WORLD = "seen"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Run as root in a container, chromium's own sandbox cannot start; the page is ours.
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def world(wild: LoadedRun) -> Iterator[str]:
    create_world(wild, WORLD)
    yield WORLD
    delete_world(wild.run, WORLD)


@pytest.fixture
def orchard(society: LoadedRun) -> str:
    create_world(society, WORLD)
    return WORLD


def opened(browser: Browser, url: str, name: str, width: int = 1280) -> Page:
    """In a browser of its own, renamed."""
    page = browser.new_context(viewport={"width": width, "height": 860}).new_page()
    page.set_default_timeout(WAIT_MS)
    expect.set_options(timeout=WAIT_MS)
    page.goto(f"{url}#{TOKEN}")
    expect(page.locator("#agents")).to_contain_text("(you)")
    page.locator("#name").fill(name)
    page.locator("#rename button").click()
    expect(page.locator("#agents")).to_contain_text(f"{name} (you)")
    page.locator("#tick").click()  # the keys belong to the world again
    return page


def picture(page: Page, tick: int) -> str:
    """The world's picture, once that of the tick is drawn."""
    canvas = page.locator("canvas").first
    expect(canvas).to_have_attribute("aria-label", f"World, step {tick}")
    return canvas.evaluate("canvas => canvas.toDataURL()")


def test_two_people_share_a_world_that_outlives_its_server(browser: Browser, wild: LoadedRun, world: str) -> None:
    with shared_server(wild, world) as server:
        port = server.port
        ada, bob = opened(browser, server.url, "ada"), opened(browser, server.url, "bob", width=375)
        ada.keyboard.press("ArrowUp")
        seen = picture(ada, 1)
        assert picture(bob, 1) == seen
        expect(bob.locator("#deed")).to_have_text("ada: forward")
        expect(bob.locator("#agents .acted")).to_have_text("ada")
        bob.keyboard.press("ArrowLeft")
        expect(ada.locator("#deed")).to_have_text("bob: left")
        seen = picture(ada, 2)
        expect(ada.locator("#notes")).to_contain_text("bob came.")
        for page in (ada, bob):
            expect(page.locator("#timeline-title")).to_be_hidden()
            expect(page.locator("#world")).to_be_hidden()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(ada.locator("#away")).to_contain_text("goes on trying")
    with shared_server(wild, world, port):
        for page, name in ((ada, "ada"), (bob, "bob")):  # nobody touches them
            expect(page.locator("#away")).to_be_hidden()
            expect(page.locator("#agents")).to_contain_text(f"{name} (you)")
            expect(page.locator("#tick")).to_have_text("tick 2")
            assert picture(page, 2) == seen
        notes = ada.locator("#notes li", has_text="A server was started with it.")
        expect(notes).to_have_count(2)
        expect(notes.first).to_contain_text("2")
        ada.keyboard.press("ArrowUp")
        expect(bob.locator("#tick")).to_have_text("tick 3")
        assert picture(bob, 3) == picture(ada, 3) != seen
        bob.locator("#text").fill("go to the red ball")
        bob.locator("#text").press("Enter")
        expect(ada.locator("#mission b")).to_have_text("go to the red ball")
        bob.close()
        expect(ada.locator("#notes")).to_contain_text("bob left.")
    ada.close()


def test_each_page_is_an_agent_and_who_is_too_late_looks_on(browser: Browser, society: LoadedRun, orchard: str) -> None:
    with shared_server(society, orchard) as server:
        port = server.port
        ada, bob = opened(browser, server.url, "ada"), opened(browser, server.url, "bob")
        with server.client(hello=False) as bot:
            bot.enter(name="bot")
            dan = opened(browser, server.url, "dan")
            expect(ada.locator("#seat")).to_have_text("You are agent 0 (white).")
            expect(bob.locator("#seat")).to_have_text("You are agent 1 (orange).")
            expect(dan.locator("#seat")).to_have_text("All agents are taken: you look on until one is free.")
            expect(dan.locator("#agents")).to_contain_text("bot, agent 2 (teal)")
            dan.keyboard.press("ArrowUp")
            expect(dan.locator("#notices")).to_contain_text("All agents of this world are taken")
            ada.keyboard.press("ArrowUp")
            expect(dan.locator("#deed")).to_have_text(
                "agent 0 (white), ada: up · agent 1 (orange), bob: stay · agent 2 (teal), bot: stay"
            )
            seen = picture(ada, 1)
            assert picture(dan, 1) == seen
        expect(dan.locator("#seat")).to_have_text("You are agent 2 (teal).")
        expect(ada.locator("#notes")).to_contain_text("dan is agent 2 (teal) now.")
        bob.close()
        expect(dan.locator("#notes")).to_contain_text("bob left.")
        dan.locator("#tick").click()
        dan.keyboard.press("ArrowLeft")
        expect(ada.locator("#deed")).to_have_text(
            "agent 0 (white), You: stay · agent 1 (orange), nobody · agent 2 (teal), dan: left"
        )
        assert ada.evaluate("document.documentElement.scrollWidth <= innerWidth")
    with shared_server(society, orchard, port):
        for page, seat in ((ada, "agent 0 (white)"), (dan, "agent 2 (teal)")):
            expect(page.locator("#away")).to_be_hidden()
            expect(page.locator("#seat")).to_have_text(f"You are {seat}.")
            expect(page.locator("#tick")).to_have_text("tick 2")
