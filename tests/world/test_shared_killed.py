"""Two browsers and a bot in one world whose server is killed while they play: all go on, and the log replays it.

Needs Debian's chromium. Run: pytest tests/world/test_shared_killed.py
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from lived_worlds import announced, lived_again, past_of
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tiny_run import start
from toy_run import make_toy_run

from unimodel.run_folder import RunFolder
from unimodel.training.loaded_run import load_run
from unimodel.world.sessions.from_run import create_world

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
ORCHARD = "society:data_pipelines.sources.orchard?agents=3"
WAIT_MS = 60_000
"""Longest wait for what must come; nothing is measured with it."""
WORLD, KILLS = "besieged", 3
RANDOM_BOT = 0
"""Its seat: it was there first."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_toy_run(tmp_path_factory.mktemp("orchard"), environment=ORCHARD, policies=[{"kind": "random"}])


@contextmanager
def killed_server(run: RunFolder, port: int) -> Iterator[tuple[str, int]]:
    """Its address and its port, until it is killed at the end of the block."""
    arguments = ("play", str(run.path), "--world", WORLD, "--bot", "random", "--port", str(port))
    process = start(*arguments, stderr=subprocess.STDOUT)
    try:
        said = announced(process)
        yield said.url, said.port
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def opened(browser: Browser, url: str, name: str) -> Page:
    """In a browser of its own, renamed."""
    page = browser.new_context(viewport={"width": 1280, "height": 860}).new_page()
    page.set_default_timeout(WAIT_MS)
    expect.set_options(timeout=WAIT_MS)
    page.goto(url)
    page.locator("#name").fill(name)
    page.locator("#rename button").click()
    expect(page.locator("#agents")).to_contain_text(f"{name} (you)")
    page.locator("#tick").click()  # the keys belong to the world again
    return page


def tick_of(page: Page) -> int:
    return int(page.locator("#tick").inner_text().removeprefix("tick "))


def play_for(page: Page, ticks: int) -> None:
    """Until so many have gone by on a page."""
    goal = tick_of(page) + ticks
    page.wait_for_function(
        "goal => Number(document.querySelector('#tick').textContent.slice(5)) >= goal", arg=goal, timeout=WAIT_MS
    )


@pytest.mark.slow
def test_two_people_and_a_bot_outlive_every_server(run: RunFolder) -> None:
    loaded, pages, port, lived = load_run(run.path), list[Page](), 0, 0
    create_world(loaded, WORLD)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for _ in range(KILLS):
            with killed_server(run, port) as (url, port):
                if not pages:
                    pages = [opened(browser, url, name) for name in ("ada", "bob")]
                    pages[0].get_by_text("Real time").click()
                    pages[0].locator("#tick").click()
                for page in pages:
                    expect(page.locator("#away")).to_be_hidden()
                    assert tick_of(page) >= lived
                    page.keyboard.down("ArrowUp")
                for page in pages:
                    play_for(page, 4)
                # Killed in the midst of the game, with keys held.
            for page in pages:
                expect(page.locator("#away")).to_contain_text("goes on trying")
                page.keyboard.up("ArrowUp")
            lived, before = past_of(run, WORLD).tick, lived
            acts = [act for tick in past_of(run, WORLD).ticks[before:] for act in tick.acts]
            assert {act.agent for act in acts if act.action} >= {"random", "ada", "bob"}, "all three go on"
        browser.close()
    past = past_of(run, WORLD)
    assert {seat for tick in past.ticks for seat, act in enumerate(tick.acts) if act.agent == "random"} == {RANDOM_BOT}
    np.testing.assert_array_equal(lived_again(loaded, past), past.state(past.tick).frames)
