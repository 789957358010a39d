"""The app in a real browser: `make test-browser`."""

import shlex
import shutil
import time

import numpy as np
import pytest
from PIL import Image

import sample
from cardiff.app.settings import PROGRAM
from tests.app.conftest import CARS

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.browser
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser():
    """Chromium of the system, through Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright, for tests in a browser")
    if BROWSER is None:
        pytest.skip("there is no Chromium: apt-get install chromium, or install Chrome")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, site, request):
    """A page with the app, which loads nothing from elsewhere and logs no error."""
    width, height = SIZES[getattr(request, "param", "desktop")]
    page = browser.new_page(viewport={"width": width, "height": height})
    elsewhere, errors = [], []
    page.on("request", lambda r: None if r.url.startswith((site[0], "data:", "blob:")) else elsewhere.append(r.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(site[0])
    page.wait_for_selector("#draw-go")
    yield page
    page.close()
    assert not elsewhere, elsewhere
    assert not errors, errors


def open_tab(page, name):
    page.get_by_role("tab", name=name).click()


def src(page, place):
    """The address of the picture there, when it is shown."""
    page.wait_for_selector(f"{place} img", timeout=60_000)
    return page.locator(f"{place} img").first.get_attribute("src")


def pixels(page, place, tmp_path):
    """The picture there, as the browser gets it."""
    body = page.request.get(src(page, place)).body()
    (tmp_path / "shown.png").write_bytes(body)
    return np.asarray(Image.open(tmp_path / "shown.png"))


def changed(page, place, before):
    """Wait for another picture there."""
    deadline = time.monotonic() + 60
    while src(page, place) == before:
        assert time.monotonic() < deadline, "the picture stays the same"
        time.sleep(0.1)


def test_what_is_drawn_is_what_the_command_draws(page, tmp_path, monkeypatch):
    page.get_by_label("Steps").first.fill("5")
    page.get_by_label("Seed").first.fill("7")
    page.get_by_label("Images of each class").first.fill("2")
    page.keyboard.press("Tab")
    page.click("#draw-go")
    shown = pixels(page, "#draw-picture", tmp_path)
    command = page.locator("#draw-command .cm-content").inner_text().replace("\n", "")
    assert "--seed 7" in command and "--steps 5" in command
    monkeypatch.chdir(tmp_path)
    sample.main(shlex.split(command.removeprefix(PROGRAM)))
    assert np.array_equal(shown, np.asarray(Image.open(tmp_path / "picture.png")))


def test_a_wrong_choice_is_a_sentence_beside_the_button(page):
    page.get_by_label("Images of each class").first.fill("16")
    page.keyboard.press("Tab")
    page.click("#draw-go")
    alert = page.locator("#draw-message [role=alert]")
    alert.wait_for(timeout=30_000)
    assert "48 images were asked for, and 1 to 12 can be drawn here" in alert.inner_text()


def test_another_model_has_other_classes(page):
    assert page.get_by_text("cat, black").first.is_visible()
    page.get_by_label("Model", exact=True).first.click()
    page.get_by_role("option", name="plain").click()
    page.wait_for_function("!document.querySelector('#component-0, body').innerText.includes('cat, black')")
    page.get_by_label("Guidance", exact=True).first.click()
    page.get_by_role("option", name="none").click()
    page.click("#draw-go")
    assert src(page, "#draw-picture")


@pytest.mark.parametrize("page", SIZES, indirect=True)
def test_one_of_196_classes_is_found_by_typing(page, tmp_path, monkeypatch):
    """Its name has spaces and a slash; the command draws the same picture."""
    page.get_by_label("Model", exact=True).first.click()
    page.get_by_role("option", name="cars").click()
    page.wait_for_function(f"document.body.innerText.includes({CARS[0]!r})")
    classes = page.get_by_label("Classes", exact=True).locator("visible=true").first
    for _ in range(5):  # those that are chosen at the start
        classes.focus()
        page.keyboard.press("Backspace")
    classes.fill("c/v cargo van minivan 2009")
    options = page.get_by_role("option").locator("visible=true")
    page.wait_for_function("document.querySelectorAll('[role=option]').length == 1")  # of no other list either
    assert [text.strip() for text in options.all_inner_texts()] == ["Ram C/V Cargo Van Minivan 2009"]
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.get_by_label("Steps").first.fill("3")
    page.keyboard.press("Tab")
    page.click("#draw-go")
    shown = pixels(page, "#draw-picture", tmp_path)
    command = page.locator("#draw-command .cm-content").inner_text().replace("\n", "")
    assert "--labels '\"Ram C/V Cargo Van Minivan 2009\"' --num_images 4 " in command
    monkeypatch.chdir(tmp_path)
    sample.main(shlex.split(command.removeprefix(PROGRAM)))
    assert np.array_equal(shown, np.asarray(Image.open(tmp_path / "picture.png")))
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def test_the_steps_are_watched(page):
    open_tab(page, "Watch")
    page.click("#watch-go")
    last = src(page, "#watch-frame")
    slider = page.locator("#watch-step input[type=range]")
    assert slider.input_value() == slider.get_attribute("max") == "20"
    slider.focus()
    page.keyboard.press("Home")
    changed(page, "#watch-frame", last)
    assert slider.input_value() == "0"


def test_both_sides_are_compared(page, tmp_path):
    open_tab(page, "Compare")
    page.get_by_label("Images of each class").locator("visible=true").first.fill("1")
    page.keyboard.press("Tab")
    page.click("#compare-go")
    assert pixels(page, "#compare-picture", tmp_path).size
    assert page.locator("#compare-commands").inner_text().count("sample") == 2


def test_a_knot_is_dragged_and_moved_by_keys(page):
    open_tab(page, "Noise")
    curves = src(page, "#noise-curves")
    yaml = page.locator("#noise-yaml .cm-content")
    before = yaml.inner_text()
    page.wait_for_function("[...document.images].every(image => image.complete)")
    page.wait_for_timeout(500)  # pictures move what is below them when they come
    knot = page.locator("#noise-knots circle").nth(3)
    knot.scroll_into_view_if_needed()
    box = knot.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 60, steps=4)  # past its neighbour
    page.mouse.up()
    changed(page, "#noise-curves", curves)
    after = yaml.inner_text()
    assert after != before

    def values(text):
        return [float(v) for v in text.partition("[")[2].partition("]")[0].split(",")]

    assert values(after)[3] == pytest.approx(values(before)[2] - 0.05)  # it stays below
    assert [v for i, v in enumerate(values(after)) if i != 3] == [v for i, v in enumerate(values(before)) if i != 3]
    curves = src(page, "#noise-curves")
    page.locator("#noise-knots circle").nth(5).focus()
    page.keyboard.press("ArrowDown")
    changed(page, "#noise-curves", curves)
    assert values(yaml.inner_text())[5] == pytest.approx(values(before)[5] - 0.25)


def test_time_is_a_slider_for_the_keyboard_too(page):
    open_tab(page, "Noise")
    strip = src(page, "#noise-strip")
    slider = page.locator("#noise-t input[type=range]")
    slider.focus()
    page.keyboard.press("ArrowRight")
    changed(page, "#noise-strip", strip)
    assert float(slider.input_value()) == pytest.approx(0.41)


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_nothing_is_wider_than_a_phone(page):
    for name in ("Draw", "Watch", "Compare", "Noise"):
        open_tab(page, name)
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES["phone"][0]


def test_every_control_has_a_name(page):
    """For a screen reader: a label of its own, or one around it."""
    for name in ("Draw", "Watch", "Compare", "Noise"):
        open_tab(page, name)
        page.wait_for_timeout(500)
        nameless = page.evaluate(
            """[...document.querySelectorAll('input:not([type=file]):not([type=hidden]), textarea, [role=slider]')]
            .filter(e => e.offsetParent !== null && !e.getAttribute('aria-label') && !e.closest('label')
                    && !e.getAttribute('aria-labelledby') && !(e.id && document.querySelector(`label[for="${e.id}"]`)))
            .map(e => e.outerHTML.slice(0, 200))"""
        )
        assert not nameless, nameless
