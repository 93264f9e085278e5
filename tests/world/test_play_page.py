"""The page of a play server in a real browser: somebody plays, goes back, branches, tells the world something, records.

Needs Debian's chromium. Run: pytest tests/world/test_play_page.py
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from play_server import TOKEN, PlayServer, play_server
from playwright.sync_api import Browser, Page, expect, sync_playwright

from data_pipelines.shards.verify import verify_dataset
from unimodel.training.loaded_run import LoadedRun

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
WAIT_MS = 60_000
"""Longest wait for what must come; nothing is measured with it."""
PIXELS = "canvas => canvas.toDataURL()"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Run as root in a container, chromium's own sandbox cannot start; the page is ours.
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def server(wild: LoadedRun, other: LoadedRun) -> Iterator[PlayServer]:
    with play_server(wild, other, max_clients=24, silence_seconds=60.0) as running:
        yield running


@pytest.fixture
def page(browser: Browser, server: PlayServer) -> Iterator[Page]:
    yield from _opened(browser, server)


def _opened(browser: Browser, server: PlayServer) -> Iterator[Page]:
    """Opened as the command prints it; a script error, or anything that the policy forbids, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    opened = context.new_page()
    opened.set_default_timeout(WAIT_MS)
    expect.set_options(timeout=WAIT_MS)
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    opened.goto(f"{server.url}#{TOKEN}")
    expect(opened.locator("#where")).to_have_text("step 0 of 0")
    yield opened
    context.close()
    assert wrong == []


TAP = """code => {
  for (const type of ["keydown", "keyup"]) dispatchEvent(new KeyboardEvent(type, { code, cancelable: true }));
}"""


def _dream(page: Page, where: str) -> str:
    """The dream's picture, once that of `where` is drawn."""
    canvas = page.locator("canvas").first
    expect(canvas).to_have_attribute("aria-label", f"Dream, {where}")
    return canvas.evaluate(PIXELS)


def _real(page: Page) -> str:
    return page.locator("canvas").last.evaluate(PIXELS)


def _tap(page: Page, key: str, then: str) -> str:
    """Presses a key; the dream's picture of the step that it leads to. Down and up at once: on a busy machine the two
    may come so far apart that the key repeats."""
    page.evaluate(TAP, key)
    return _dream(page, then)


def test_a_person_plays_goes_back_branches_tells_and_records(page: Page, wild: LoadedRun) -> None:
    assert page.url.endswith("/"), "the token has left the address bar"
    expect(page.locator("#label")).to_contain_text(str(wild.run.path))
    expect(page.locator("#label")).to_contain_text("not the real game")
    expect(page.locator("figcaption").last).to_contain_text("BabyAI-GoToLocalS8N3-v0")

    # Keys change what is to be seen, in the dream and in reality.
    pictures, real = [_dream(page, "step 0")], _real(page)
    for step, key in enumerate(("ArrowLeft", "ArrowUp", "ArrowRight"), start=1):
        pictures.append(_tap(page, key, f"step {step}"))
    assert len(set(pictures)) == 4 and _real(page) != real
    expect(page.locator("#agreement")).to_contain_text("PSNR")
    expect(page.locator("#measured")).to_contain_text("key to picture")

    # Back, and a branch from there.
    page.locator("#rewind").fill("1")
    assert _dream(page, "step 1") == pictures[1]
    expect(page.locator("#where")).to_have_text("step 1 of 3")
    page.locator("#where").click()
    other = _tap(page, "ArrowRight", "step 2 of branch 1")
    assert other != pictures[2]
    branches = page.locator("#branches button")
    expect(branches).to_have_count(2)
    branches.first.click()
    assert _dream(page, "step 3") == pictures[3]
    branches.last.click()
    assert _dream(page, "step 2 of branch 1") == other
    page.locator("#branch").click()
    expect(branches).to_have_count(3)

    # A text event, then a recording.
    page.locator("#text").fill("go to the red ball")
    page.locator("#text").press("Enter")
    expect(page.locator("#mission b")).to_have_text("go to the red ball")
    page.locator("#record").click()
    expect(page.locator("#record")).to_have_attribute("aria-pressed", "true")
    _tap(page, "ArrowUp", "step 3 of branch 2")
    _tap(page, "ArrowUp", "step 4 of branch 2")
    page.locator("#record").click()
    expect(page.locator("#recorded")).to_be_visible()
    folder = Path(page.locator("#recorded").inner_text().removeprefix("Recorded into "))
    report = verify_dataset(folder)
    assert report.ok and report.num_samples == 1

    page.reload()
    expect(page.locator("#where")).to_have_text("step 4 of 4")
    expect(page.locator("#mission b")).to_have_text("go to the red ball")
    page.locator("#again").click()
    assert _dream(page, "step 0") == pictures[0]


def test_an_event_is_typed_and_happens_in_both_worlds(browser: Browser, eventful: LoadedRun) -> None:
    with play_server(eventful, silence_seconds=60.0) as server:
        for page in _opened(browser, server):
            expect(page.locator("#tell-title")).to_have_text("Make something happen")
            before, dreamed = _real(page), _tap(page, "Enter", "step 1")
            assert _real(page) == before  # `done` does nothing
            event = page.locator("#possible option", has=page.locator("xpath=self::*[contains(@value, 'appears')]"))
            sentence = event.first.get_attribute("value")
            page.locator("#text").fill(sentence or "")
            page.locator("#text").press("Enter")
            expect(page.locator("#events")).to_have_text(f"With the next step: {sentence}")
            assert _tap(page, "Enter", "step 2") != dreamed and _real(page) != before
            expect(page.locator("#events")).to_have_text(f"At step 1: {sentence}")


def test_real_time_runs_is_paused_and_lets_go_of_keys_when_the_page_loses_them(page: Page) -> None:
    page.get_by_text("Real time").click()
    page.keyboard.down("ArrowUp")
    expect(page.locator("#where")).to_have_text(re.compile(r"step ([4-9]|\d\d+) of .*"))
    expect(page.locator(".key.down")).to_have_text("forward↑")
    page.evaluate("dispatchEvent(new Event('blur'))")
    expect(page.locator(".key.down")).to_have_count(0)
    page.locator("#pause").click()
    expect(page.locator("#pause")).to_have_text("Resume")
    expect(page.locator("#time-hint")).to_contain_text("A key takes one step")
    before = page.locator("#where").inner_text()
    page.locator("#step").click()
    expect(page.locator("#where")).not_to_have_text(before)


def test_buttons_do_what_keys_do_and_keys_can_be_changed(page: Page) -> None:
    page.get_by_role("button", name="forward").click()
    expect(page.locator("#where")).to_have_text("step 1 of 1")
    page.locator("#edit-keys").click()
    page.get_by_role("button", name="forward:").click()
    page.keyboard.press("KeyW")
    expect(page.get_by_role("button", name="forward: W")).to_be_visible()
    page.locator("#close-keys").click()
    page.keyboard.press("ArrowUp")  # nobody's now
    page.keyboard.press("KeyW")
    expect(page.locator("#where")).to_have_text("step 2 of 2")


def test_a_blind_comparison_is_voted_on_and_revealed(page: Page, wild: LoadedRun) -> None:
    page.locator("#compare").click()
    expect(page.locator("figcaption b")).to_have_text(["Left", "Right"])
    assert str(wild.run.path) not in page.locator(".stage").inner_text()
    page.keyboard.press("ArrowUp")
    expect(page.locator("#where")).to_have_text("step 1 of 1")
    page.locator("[data-vote=right]").click()
    expect(page.locator("#vote-question")).to_contain_text("You chose the right one.")
    expect(page.locator("#votes")).to_contain_text(str(wild.run.path))
    page.locator("#end-trial").click()
    expect(page.locator("figcaption b")).to_have_text(["Dream", "Real"])


def test_a_second_window_asks_before_it_takes_over(page: Page) -> None:
    _tap(page, "ArrowUp", "step 1")
    world = page.evaluate("sessionStorage.getItem('world')")
    second = page.context.new_page()
    second.add_init_script(f"sessionStorage.setItem('world', {world!r}); sessionStorage.setItem('token', {TOKEN!r})")
    second.goto(page.url)
    second.get_by_role("button", name="Take over").click()
    expect(second.locator("#where")).to_have_text("step 1 of 1")
    expect(page.locator("#away")).to_contain_text("watching")
    second.keyboard.press("ArrowLeft")
    expect(page.locator("#where")).to_have_text("step 2 of 2")  # it goes on seeing the world
    page.locator("#away button").click()
    expect(page.locator("#away")).to_be_hidden()
    _tap(page, "ArrowUp", "step 3")


def test_a_wrong_token_is_asked_for_again(browser: Browser, server: PlayServer) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{server.url}#wrong-token")
    expect(page.locator("#enter")).to_be_visible()
    page.locator("#token").fill(TOKEN)
    page.locator("#token").press("Enter")
    expect(page.locator("#where")).to_have_text("step 0 of 0")
    context.close()


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_and_text_is_legible(browser: Browser, server: PlayServer, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # pyright: ignore
    page = context.new_page()
    page.goto(f"{server.url}#{TOKEN}")
    expect(page.locator("#where")).to_have_text("step 0 of 0")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    clipped = (
        "[...document.querySelectorAll('button')].filter(b => b.offsetParent && b.scrollWidth > b.clientWidth + 1)"
    )
    assert page.evaluate(f"{clipped}.map(b => b.textContent)") == []
    assert page.evaluate(CONTRASTS) == []
    context.close()


CONTRASTS = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("main *, header *, footer *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.offsetParent || element.disabled || element.matches(".hidden")) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) poor.push(`${element.textContent.trim()}: ${((a + .05) / (b + .05)).toFixed(2)}`);
  }
  return poor;
}"""
"""Texts with less than the contrast that WCAG 2 asks for (4.5 to 1)."""
