"""The explorer page in a real browser: every number is the engine's, every view reached, no network asked.

Skipped where there is no Chromium or no Playwright (`pip install -e ".[test]"`, `apt-get install chromium`).
"""

import os
import re
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from explorer_numbers import Truth, shown
from networks import using
from PIL import Image

from tinycnn import explain, train
from tinycnn.explanation import Subject, explain_photo
from tinycnn.layers import Conv2D, Dense, Flatten, MaxPooling2D
from tinycnn.models import Sequential
from tinycnn.preprocessing.settings import Preprocessing
from tinycnn.random import generator
from tinycnn.webpage import webpage

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
VIEWS = ("forward", "backward", "weight", "step", "photo")
BAD_NAME = "<img src=x onerror=alert(1)>"

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
slow = pytest.mark.slow
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium, or set CHROMIUM")


@pytest.fixture(scope="module", autouse=True)
def machine():
    with using("numpy"):
        yield


@pytest.fixture(scope="module")
def browser():
    environment = dict(os.environ)
    with playwright.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        os.environ.clear()
        os.environ.update(environment)
        yield opened
        opened.close()


class Reader:
    """A tab with a page in it, which remembers all that it asked for and complained of."""

    def __init__(self, browser, file: Path, size=(1280, 800), fragment: str = "", **options) -> None:
        self.file, self.asked, self.said = file, [], []
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        began = time.perf_counter()
        self.page.goto(file.as_uri() + fragment)
        self.page.wait_for_selector("html[data-ready]")
        self.first_view = time.perf_counter() - began
        self.page.wait_for_selector("html[data-ready=all]")
        self.settle()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_) -> None:
        self.context.close()

    def settle(self) -> None:
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def go(self, fragment: str) -> None:
        self.page.evaluate("hash => { location.hash = hash; }", fragment)
        self.page.wait_for_timeout(20)
        self.settle()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
            self.settle()

    def until(self, expression: str, seconds: float = 10) -> None:
        """Waits; the page's policy forbids what Playwright would do for it."""
        end = time.perf_counter() + seconds
        while not self.page.evaluate(expression):
            assert time.perf_counter() < end, f"never came true: {expression}"
            self.page.wait_for_timeout(20)

    def numbers(self) -> list[tuple[str, str]]:
        """(address, text) of every number on the page."""
        return self.page.evaluate("[...document.querySelectorAll('[data-n]')].map(e => [e.dataset.n, e.textContent])")

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def attribute(self, selector: str, name: str) -> str | None:
        return self.page.get_attribute(selector, name)

    def overflow(self) -> int:
        """How many pixels the page is wider than the screen."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.fixture(scope="module")
def fish(small_photos, tmp_path_factory):
    """The paper's network in small, from a run with its past: the subject, what the page was told, and the page."""
    run = tmp_path_factory.mktemp("explorer") / "run"
    options = ["--epochs", "3", "--image-size", "26", "--backend", "numpy", "--quiet", "--out", str(run)]
    assert train.main([str(small_photos), *options, "--batch-size", "8"]) == 0
    photos = explain.image_model(run)
    subject = Subject(
        *photos,
        photo=small_photos / "test" / "stripes" / "02.png",
        label="stripes",
        optimizer=explain._optimizer(run / "checkpoint.safetensors", photos.model),
        snapshots=explain._snapshots(run, photos.model),
        history=explain._history(run / "history.csv"),
        augmented=True,
        run="run",
    )
    return written(subject, run / "page.html")


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """Three convolutions with strides and padding, pools that overlap, five classes, 96 pixels; not from a run."""
    layers = [
        Conv2D(6, 5, strides=2, padding="same", activation="relu", input_shape=(96, 96, 3)),
        MaxPooling2D(3, 2, padding="same"),
        Conv2D(8, 3, activation="relu"),
        Conv2D(7, (3, 2), activation="sigmoid"),
        MaxPooling2D((2, 3)),
        Flatten(),
        Dense(20, activation="relu"),
        Dense(5, activation="softmax"),
    ]
    model = Sequential(layers, seed=3)
    for i, weight in enumerate(model.weights):
        weight.data += generator(0, "deep", i).normal(0, 0.02, weight.shape).astype(np.float32)
    folder = tmp_path_factory.mktemp("deep")
    pixels = generator(0, "deep photo").integers(0, 256, (120, 96, 3)).astype(np.uint8)
    Image.fromarray(pixels).resize((200, 160)).save(folder / "<b>photo & more.png")
    names = ["ant", BAD_NAME, "cat", "dog", "eel"]
    settings = Preprocessing((96, 96), rescale=1 / 255, interpolation="bilinear")
    subject = Subject(model, names, settings, folder / "<b>photo & more.png", label=BAD_NAME)
    return written(subject, folder / "page.html")


def written(subject: Subject, file: Path):
    told = explain_photo(subject)
    file.write_text(webpage(told.meta, told.arrays), encoding="utf-8")
    return subject, told.meta | {"arrays": {name: list(array.shape) for name, array in told.arrays.items()}}, file


def check(truth: Truth, address: str, text: str, counts: Counter) -> None:
    """A number on the page is the engine's to the digits shown."""
    if address == "padding":
        assert text == "0"
        return
    wanted = truth(address)
    kind = address.split(" ")[0]
    if isinstance(wanted, str):
        assert text == wanted, address
    elif wanted is not None:
        value, half = shown(text)
        allowed = half * 1.02 + abs(float(wanted)) * 2e-6  # float32 of another order of work, in the seventh digit
        if kind in ("fd",):
            allowed += 3e-5 * abs(float(wanted)) + 1e-9  # another h, and kinks
        allowed += 3e-7 * getattr(wanted, "size", 0.0)  # terms that cancel
        if kind == "loss.change":
            allowed += 3e-7
        assert abs(value - float(wanted)) <= allowed, f"{address}: the page shows {text}, the engine has {wanted}"
    counts[kind] += 1


LISTED = """() => [...document.querySelectorAll('#view table.terms')]
  .filter(table => table.querySelector('thead th')?.textContent.startsWith('largest terms'))
  .map(table => [...table.querySelectorAll('tbody td:last-child .n')].map(number => Number(number.title)))"""


def check_terms(truth: Truth, meta: dict, fragment: str, listed: list[list[float]]) -> None:
    """The terms that a view names, and the rest of them, make the number that they are the terms of."""
    unit, view = re.match(r"u=([\d.]+)&v=(\w+)", fragment).groups()
    if view not in ("forward", "backward") or not listed:
        return
    s, *at = map(int, unit.split("."))
    k = int(np.ravel_multi_index(at, meta["stages"][s]["shape"]))
    wanted = float(truth(f"{'sum' if view == 'forward' else 'gy'} {s} {k}"))
    for terms in listed:
        assert abs(sum(terms) - wanted) <= 2e-6 * sum(map(abs, terms)) + 1e-12, fragment


def some_units(meta: dict, rng, each: int) -> list[str]:
    """Addresses of units as the page's hash has them, some of every stage."""
    return [
        ".".join(map(str, [s, *(int(rng.integers(0, size)) for size in stage["shape"])]))
        for s, stage in enumerate(meta["stages"])
        for _ in range(each)
    ]


def some_weights(meta: dict, rng, each: int) -> list[str]:
    found = []
    for s, stage in enumerate(meta["stages"]):
        if stage["kind"] in ("conv", "dense"):
            shape = meta["arrays"][f"w.{s}"]
            found += [".".join(map(str, [s, "w", *(int(rng.integers(0, n)) for n in shape)])) for _ in range(each)]
            found.append(f"{s}.b.{int(rng.integers(0, shape[-1]))}")
    return found


@pytest.mark.parametrize("which", ["fish", pytest.param("deep", marks=slow)])
def test_every_number_is_the_engine_s(which, browser, request):
    subject, meta, file = request.getfixturevalue(which)
    truth, rng, counts = Truth(subject, meta), np.random.default_rng(7), Counter()
    units, weights = some_units(meta, rng, 3), some_weights(meta, rng, 2)
    fragments = [f"u={unit}&v={view}" for unit in units for view in ("forward", "backward")]
    fragments += [f"u={unit}&v=forward&c={rng.integers(0, 3)}" for unit in units[3:9]]
    fragments += [f"u={units[4]}&v=weight&w={weight}" for weight in weights]
    fragments += [f"u={units[0]}&v=step", f"u={units[0]}&v=photo&k=0", f"u={units[0]}&v=photo&k=1"]
    if meta["epochs"]:
        fragments += [f"u={unit}&v=forward&e={epoch}" for epoch, unit in zip((0, 1, 2), units[3:9:2], strict=True)]
    seen: dict[str, str] = {}
    with Reader(browser, file) as tab:
        for fragment in fragments:
            tab.go(fragment)
            found = tab.numbers()
            assert len(found) >= 5, fragment
            seen.update(dict(found))
            check_terms(truth, meta, fragment, tab.page.evaluate(LISTED))
        assert tab.said == []
    for address, text in seen.items():
        check(truth, address, text, counts)
    assert counts.total() >= 400
    wanted = {"y", "z", "gy", "gz", "w", "b", "product", "sum", "rest", "back", "backrest", "learn", "g", "grest", "fd",
              "m", "v", "m0", "v0", "m_hat", "v_hat", "step", "after", "p", "p.after", "loss", "loss.after",
              "loss.expected", "moved", "share_g", "pace",
              "rf", "byte", "draw", "cam", "mean", "change", "most", "channel", "positive"}  # fmt: skip
    wanted |= {"p.past", "said.past", "loss.past", "w.past", "history"} if meta["epochs"] else set()
    assert wanted <= set(counts), f"never seen: {wanted - set(counts)}"


def test_the_page_opens_from_a_file_and_asks_for_nothing(fish, browser):
    with Reader(browser, fish[2]) as tab:
        for view in VIEWS:
            tab.go(f"v={view}")
        assert [url for url in tab.asked if not url.startswith("data:")] == [fish[2].as_uri()]
        assert tab.said == []
        assert tab.first_view < 10
        policy = tab.attribute("meta[http-equiv]", "content")
        assert "unsafe" not in policy
        assert policy.startswith("default-src 'none'")


@slow
def test_the_browser_runs_no_script_that_is_not_the_page_s(fish, browser):
    with Reader(browser, fish[2]) as tab:
        tab.page.evaluate("""() => {
          const script = document.createElement('script');
          script.textContent = 'window.ran = 1';
          document.body.append(script);
          document.body.insertAdjacentHTML('beforeend', '<img src=x onerror="window.ran = 1">');
        }""")
        tab.page.wait_for_timeout(50)
        assert tab.page.evaluate("window.ran") is None


@slow
def test_text_from_outside_stays_text(deep, browser):
    with Reader(browser, deep[2]) as tab:
        for view in VIEWS:
            tab.go(f"u={len(deep[1]['stages']) - 1}.1&v={view}")
            assert not tab.page.query_selector("img[src=x]")
            assert not tab.page.query_selector("#verdict b, .classes b")
        assert BAD_NAME in tab.text("#verdict")
        assert "<b>photo & more.png" in tab.text("#verdict")
        assert tab.page.title() == "tinycnn: <b>photo & more.png"
        assert tab.said == []


@pytest.mark.parametrize("key", ["w", pytest.param("f", marks=slow)])
def test_a_link_shows_the_same_again(key, fish, browser):
    with Reader(browser, fish[2]) as tab:
        tab.page.click("#theme-button")
        tab.page.focus("#columns")
        tab.press("[", "[", "]", "]", "ArrowDown", "ArrowRight", key)
        if key == "w":
            tab.page.fill("[data-key='weight filter']", "5")
            tab.page.keyboard.press("Enter")
        else:
            tab.page.eval_on_selector(".strip input", "e => { e.value = 7; e.dispatchEvent(new Event('input')); }")
        tab.page.eval_on_selector("#timeline input", "e => { e.value = 1; e.dispatchEvent(new Event('input')); }")
        tab.settle()
        tab.page.wait_for_timeout(50)
        fragment = tab.page.evaluate("location.hash")
        before = tab.numbers(), tab.text("main"), tab.attribute("html", "data-theme")
    assert {part.split("=")[0] for part in fragment[1:].split("&")} == {"u", "v", "e", "t", "w" if key == "w" else "c"}
    with Reader(browser, fish[2], fragment=fragment) as tab:
        assert (tab.numbers(), tab.text("main"), tab.attribute("html", "data-theme")) == before
        assert tab.page.evaluate("location.hash") == fragment


@slow
@pytest.mark.parametrize(
    "fragment",
    ["u=99.1&v=nothing", "u=1.999.0.0", "u=1.0.0", "w=1.w.0", "e=77&t=pink&c=-1", "%%%", "u=__proto__", "=&&=="],
)
def test_a_link_that_makes_no_sense_shows_the_beginning(fragment, fish, browser):
    with Reader(browser, fish[2], fragment="#" + fragment) as tab:
        assert tab.text("#view h2")
        assert tab.said == []


@slow
def test_the_keyboard_alone_reaches_every_view(fish, browser):
    with Reader(browser, fish[2]) as tab:
        for key, view in zip("fbwsa", VIEWS, strict=True):
            tab.press(key)
            assert tab.attribute("[role=tab][aria-selected=true]", "id") == f"tab-{view}"
            assert f"v={view}" in tab.page.evaluate("location.hash")
        tab.page.focus("#tab-photo")
        tab.press("ArrowRight")
        assert tab.page.evaluate("document.activeElement.id") == "tab-forward"
        tab.page.focus("#columns")
        stages = []
        tab.press(*["["] * 10)
        for _ in fish[1]["stages"]:
            stages.append(tab.text(".column.current .stage"))
            tab.press("]")
        assert stages == [stage["name"] for stage in fish[1]["stages"]]
        tab.go("u=1.3.4.2&v=forward")
        tab.page.focus("#columns")
        tab.press("ArrowDown", "ArrowRight", "PageDown")
        assert tab.text("#view h2").strip() == "conv2d[4, 5, 3]"
        tab.press("ArrowUp", "ArrowLeft", "PageUp", ".", ",", ".")
        assert tab.text("#view h2").strip() == "conv2d[3, 5, 2]"
        tab.press("?")
        assert tab.page.evaluate("document.getElementById('help').open")
        tab.press("Escape")
        assert not tab.page.evaluate("document.getElementById('help').open")


@slow
def test_everything_that_can_be_used_is_reached_by_tab(fish, browser):
    with Reader(browser, fish[2]) as tab:
        reached = set()
        for _ in range(80):
            tab.page.keyboard.press("Tab")
            reached.add(
                tab.page.evaluate("document.activeElement.id || document.activeElement.closest('[id]')?.id || ''")
            )
        assert {"help-button", "theme-button", "link-button", "columns", "tab-forward", "view", "timeline"} <= reached


@slow
def test_the_filter_slides_pauses_and_steps(fish, browser):
    with Reader(browser, fish[2]) as tab:
        tab.go("u=1.0.0.1&v=forward")
        tab.page.click("[data-key='slide on']")
        tab.settle()
        assert tab.text("#view h2").strip() == "conv2d[0, 1, 1]"
        tab.page.click("[data-key='slide play']")
        tab.until("document.querySelector('#view h2').textContent.includes('[0, 4, 1]')")
        tab.page.click("[data-key='slide play']")
        tab.settle()
        stopped = tab.text("#view h2")
        tab.page.wait_for_timeout(400)
        assert tab.text("#view h2") == stopped
        tab.page.focus("#columns")
        tab.press(" ")
        tab.page.wait_for_function(
            "text => document.querySelector('#view h2').textContent.trim() != text.trim()", arg=stopped
        )
        tab.press(" ")
        assert tab.said == []


@slow
def test_the_time_line_takes_the_landscape_back(fish, browser):
    picture = "document.querySelector('canvas[data-stage=\"1\"]').toDataURL()"
    with Reader(browser, fish[2]) as tab:
        now = tab.page.evaluate(picture)
        tab.go("v=forward&e=0")
        then = tab.page.evaluate(picture)
        assert then != now
        assert "epoch 0" in tab.text("#timeline")
        assert "epoch 0" in tab.text("#view .note")
        tab.press("e")
        tab.until("document.querySelector('#timeline b').textContent == '3'")
        tab.page.wait_for_timeout(50)
        assert tab.page.evaluate(picture) == now


def test_pointing_shows_what_a_unit_sees(fish, browser):
    with Reader(browser, fish[2]) as tab:
        box = tab.page.query_selector("canvas[data-stage='3']").bounding_box()
        tab.page.mouse.move(box["x"] + 8, box["y"] + 8)
        tab.settle()
        readout = tab.text("#readout")
        assert readout.startswith("conv2d_1[")
        assert re.search(r"sees rows \d+\u2013\d+, columns \d+\u2013\d+ of the photo", readout)
        assert tab.page.query_selector("svg.overlay .hovered.unit")
        before = tab.text("#view h2")
        tab.page.mouse.click(box["x"] + 8, box["y"] + 8)
        tab.settle()
        assert tab.text("#view h2") != before
        assert readout.startswith(tab.text("#view h2").strip())


@slow
def test_a_moving_pointer_is_answered_at_once(fish, browser):
    """Generous here, for busy machines: what a quiet one takes is a few milliseconds."""
    script = """async () => {
      const canvas = document.querySelector('canvas[data-stage="1"]'), box = canvas.getBoundingClientRect(), times = [];
      for (let i = 0; i < 40; i++) {
        const began = performance.now();
        const place = { clientX: box.left + 2 + 3 * i, clientY: box.top + 5 + 4 * i };
        canvas.dispatchEvent(new PointerEvent('pointermove', place));
        await new Promise(requestAnimationFrame);
        await new Promise(done => setTimeout(done));
        times.push(performance.now() - began);
      }
      return times.sort((a, b) => a - b)[20];
    }"""
    with Reader(browser, fish[2]) as tab:
        assert tab.page.evaluate(script) < 200


@pytest.mark.parametrize("size", [pytest.param((1280, 800), marks=slow), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=slow)])
@pytest.mark.parametrize("which", ["fish", pytest.param("deep", marks=slow)])
def test_it_fits_the_screen_and_can_be_read(which, scheme, size, browser, request):
    """No view is wider than the screen, no text paler than WCAG AA asks, every control has a name."""
    _, meta, file = request.getfixturevalue(which)
    with Reader(browser, file, size, color_scheme=scheme) as tab:
        assert tab.attribute("html", "data-theme") == scheme
        for unit in some_units(meta, np.random.default_rng(1), 1):
            for view in VIEWS:
                tab.go(f"u={unit}&v={view}")
                assert tab.overflow() <= 0, (unit, view)
                assert tab.page.evaluate(PALE) == [], (unit, view)
                assert tab.page.evaluate(NAMELESS) == [], (unit, view)
        assert tab.said == []


PALE = """() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => { const f = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
                                 return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
                        if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (e.closest('script, dialog, noscript, svg, option') || !e.getClientRects().length) continue;
    if (!walker.currentNode.textContent.trim()) continue;
    const a = light(parse(getComputedStyle(e).color)), b = light(behind(e));
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push(walker.currentNode.textContent + ' ' + contrast.toFixed(2));
  }
  return found;
}"""
NAMELESS = """() => {
  const named = e => e.textContent.trim() || e.closest('label')
    || ['aria-label', 'alt', 'aria-describedby'].some(name => e.getAttribute(name));
  const every = document.querySelectorAll('button, select, input, [role=img], [role=application], img');
  return [...every].filter(e => !named(e)).map(e => e.outerHTML.slice(0, 80));
}"""


@slow
def test_nothing_moves_for_those_who_ask_for_that(fish, browser):
    with Reader(browser, fish[2], reduced_motion="reduce") as tab:
        moving = tab.page.evaluate("""[...document.querySelectorAll('*')].map(e => getComputedStyle(e)).filter(
          style => parseFloat(style.transitionDuration) > 0 || style.animationName != 'none').length""")
        assert moving == 0


CUT = """() => [...document.querySelectorAll('#view table, .formula, #views, #columns')]
  .filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => [getComputedStyle(e).overflowX, getComputedStyle(e).backgroundImage.split('linear-gradient').length - 1])"""


@slow
def test_on_a_phone_what_is_cut_scrolls_and_shows_it(fish, browser):
    seen = []
    with Reader(browser, fish[2], (390, 844)) as tab:
        for view in VIEWS:
            tab.go(f"u=1.3.4.2&v={view}&w=1.w.0.0.0.28")
            cut = tab.page.evaluate(CUT)
            assert all(how == ["auto", 4] for how in cut), (view, cut)
            boxes = "[...document.querySelectorAll('#view .pane')].map(e => e.scrollWidth - e.clientWidth)"
            assert max(tab.page.evaluate(boxes)) <= 0, view
            seen += cut
        assert len(seen) > 2 * len(VIEWS), "the tabs, the columns, and the table of the movers"
        captions = tab.page.locator(".history figcaption")
        assert [captions.nth(i).is_visible() for i in range(captions.count())] == [True, True]
        assert "running mean" not in tab.text("#timeline")
        tab.page.click("#timeline summary")
        assert "running mean" in tab.text("#timeline")


@slow
def test_touch_chooses_too(fish, browser):
    with Reader(browser, fish[2], (390, 844), has_touch=True, is_mobile=True) as tab:
        canvas = tab.page.query_selector("canvas[data-stage='0']")
        canvas.tap(position={"x": 20, "y": 30})
        tab.settle()
        assert tab.text("#view h2").startswith("photo[")
        assert tab.overflow() <= 0


@slow
def test_backwards_the_maps_say_what_they_show_and_which_gates_are_closed(fish, browser):
    subject, meta, file = fish
    sums = Truth(subject, meta).stages[1][0].output[0]
    with Reader(browser, file) as tab:
        for place in (np.argwhere(sums > 0)[0], np.argwhere(sums <= 0)[0]):
            tab.go("v=backward&u=1." + ".".join(map(str, place)))
            readout = tab.text("#readout")
            assert "\u2202loss/\u2202y, before the ReLU gate" in readout
            assert ("which ReLU lets through" in readout) == bool(sums[tuple(place)] > 0)
            assert ("which ReLU stops" in readout) == bool(sums[tuple(place)] <= 0)


@slow
def test_the_movers_show_the_way_that_they_moved(fish, browser):
    with Reader(browser, fish[2]) as tab:
        tab.go("v=step")
        assert "change" in tab.text("#view .pane:last-child thead")
        rows = tab.page.evaluate("""[...document.querySelectorAll('#view .pane:last-child tbody tr')]
          .map(row => [...row.querySelectorAll('td .n')].map(number => Number(number.title)))""")
        assert rows
        for before, change, after in rows:
            assert after - before == pytest.approx(change, abs=1e-7)
        beyond = any(abs(change) > 0.00101 for _, change, _ in rows)
        assert ("come of momentum" in tab.text("#view")) == beyond


@slow
def test_what_is_shown_is_named(fish, browser):
    with Reader(browser, fish[2]) as tab:
        assert re.search(
            r"the network says \w+\s+with probability 0\.\d+\s+answer: (right|wrong)", tab.text("#verdict")
        )
        assert all(
            text.startswith("colours: ") for text in tab.page.locator(".column:not(.photo) .range").all_inner_texts()
        )
        tab.page.locator("#timeline summary").click()
        assert "running mean over augmented photos during the epoch" in tab.text("#timeline")
        tab.go("v=forward&u=0.1.1.1")
        assert "times 1/255 = 0.003922" in tab.text("#view")
        tab.go("v=forward&u=1.1.1.1")
        assert "[row, column, map]" in tab.text("#view")
        assert "place by place" in tab.text("#view")
        tab.go("v=photo")
        assert "times 1/255 = 0.003922" in tab.text("#view")
        assert "ReLU is applied to the sum" in tab.text("#view")
        tab.go("v=weight&w=1.b.0")
        assert "relative error" in tab.text(".check")


@slow
def test_moves_beyond_the_learning_rate_are_remarked_on(fish, browser, tmp_path):
    page = fish[2].read_text(encoding="utf-8")
    for step, remarked in (("0.0023", True), ("0.0009", False)):
        changed, count = re.subn(r'"step": ?-?[\d.e-]+, ?"after"', f'"step":{step},"after"', page, count=1)
        assert count == 1
        (tmp_path / "page.html").write_text(changed, encoding="utf-8")
        with Reader(browser, tmp_path / "page.html") as tab:
            tab.go("v=step")
            assert ("come of momentum" in tab.text("#view")) == remarked


@slow
def test_why_a_weight_moves_is_told_from_its_numbers(fish, browser):
    subject, meta, file = fish
    truth = Truth(subject, meta)
    told = set()
    with Reader(browser, file) as tab:
        for k in range(0, int(np.prod(meta["arrays"]["w.1"])), 7):
            at = np.unravel_index(k, meta["arrays"]["w.1"])
            tab.go("v=weight&w=1.w." + ".".join(map(str, at)))
            photo, memory = truth(f"share_g 1 w {k}"), truth(f"share_m 1 w {k}")
            if photo == 0 or memory == 0:
                continue
            text = tab.text(".why")
            ways = re.findall(r"\b(up|down)\b", text)
            assert ways == ["down" if g > 0 else "up" for g in (photo, memory, truth(f"step 1 w {k}"))], text
            prevails = "memory" if abs(memory) > abs(photo) else "photo"
            assert f"The {prevails} is " in text
            assert ("both agree" in text) == (photo * memory > 0)
            assert "learning rate (0.001)" in text
            assert "batch of one" in text
            told.add((prevails, photo * memory > 0))
    assert len(told) >= 2


def window_of(stage: dict, i: int, j: int) -> list[tuple[int, int]]:
    """The places that a pool's window covers."""
    win = stage["window"]
    rows = range(i * win["sh"] - win["top"], i * win["sh"] - win["top"] + win["kh"])
    columns = range(j * win["sw"] - win["left"], j * win["sw"] - win["left"] + win["kw"])
    return [(row, column) for row in rows for column in columns if 0 <= row < win["h"] and 0 <= column < win["w"]]


@slow
def test_of_equals_none_is_called_the_largest(fish, browser):
    subject, meta, file = fish
    truth = Truth(subject, meta)
    before, after = truth.stages[1][-1].output[0], truth.stages[2][-1].output[0]
    i, j, c = (int(n) for n in np.argwhere(after == 0)[0])
    single = [int(n) for n in np.argwhere(after > 0)[0]]
    places = window_of(meta["stages"][2], i, j)
    winner = next(
        place
        for place in window_of(meta["stages"][2], *single[:2])
        if before[(*place, single[2])] == after[tuple(single)]
    )
    with Reader(browser, file) as tab:
        for unit in [f"2.{i}.{j}.{c}", *(f"1.{row}.{column}.{c}" for row, column in places)]:
            for view in ("forward", "backward"):
                tab.go(f"u={unit}&v={view}")
                assert "All four are 0; the first of equals counts as winner." in tab.text("#view"), (unit, view)
                assert not re.search(r"It (is|was) the largest", tab.text("#view"))
        tab.go(f"u=1.{winner[0]}.{winner[1]}.{single[2]}&v=backward")
        assert "It was the largest in" in tab.text("#view")
        assert "first of equals" not in tab.text("#view")
