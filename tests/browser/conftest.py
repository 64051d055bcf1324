"""A real Chromium, the system's: one window for all tests, watched for what it asks for and complains of."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import playwright.sync_api as playwright
import pytest

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
NAMES = ("chromium", "chromium-browser", "google-chrome")

CONTRAST = """(root) => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const [r, g, b, a] = rgba(getComputedStyle(at).backgroundColor);
      if (a === 255) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || element.closest("script, style, noscript")) continue;
    if (!element.checkVisibility() || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const text = rgba(element.namespaceURI.endsWith("svg") ? style.fill : style.color).slice(0, 3);
    const [light, dark] = [luminance(text), luminance(ground(element))].sort((a, b) => b - a);
    found.push([(light + 0.05) / (dark + 0.05), walker.currentNode.textContent.trim().slice(0, 30)]);
  }
  return found.sort((a, b) => a[0] - b[0])[0];
}"""


PIXELS = """(canvas) => {
  const { width, height } = canvas;
  const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  return [width, height, [...copy.getImageData(0, 0, width, height).data]];
}"""


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where Chromium is."""
    named = os.environ.get("PELLUCID_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        missing = "needs Chromium; on Debian: sudo apt-get install chromium, or set PELLUCID_CHROMIUM to its path"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return found


class Watch:
    """What a page asked for, and what it complained of."""

    def __init__(self, page: "playwright.Page") -> None:
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("websocket", lambda socket: self.asked.append(socket.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        page.on("console", self._heard)

    def _heard(self, message: "playwright.ConsoleMessage") -> None:
        if message.type in ("error", "warning", "trace", "assert"):
            self.complaints.append(message.text)

    @property
    def abroad(self) -> list[str]:
        """What it asked for that is not in the page itself."""
        return [url for url in self.asked if not url.startswith(("file:", "data:", "blob:"))]


@pytest.fixture(scope="session")
def window(chromium) -> Iterator[tuple["playwright.Page", Watch]]:
    """The one window of all tests, in a browser with a profile of its own."""
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=chromium, args=FLAGS)
        page = running.new_page()
        page.set_default_timeout(8_000)
        yield page, Watch(page)
        running.close()


@pytest.fixture
def opened(window):
    """``with opened(path, scheme="dark") as page``: a file, drawn, that asks nobody and does not complain."""

    @contextmanager
    def open_page(path: Path, *, scheme: str = "light", drawn: bool = True, width: int = 1000, height: int = 900):
        page, watch = window
        page.goto("about:blank")
        page.emulate_media(media="screen", color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": height})
        page.mouse.move(0, 0)
        watch.asked.clear()
        watch.complaints.clear()
        page.goto(path.as_uri())
        if drawn:
            page.wait_for_selector("html[data-drawn]", state="attached")
        yield page
        assert watch.complaints == []
        assert watch.abroad == []

    return open_page


@pytest.fixture
def shown(opened, tmp_path):
    """``with shown(picture) as page``: a view, saved and opened."""

    @contextmanager
    def show(picture, **options):
        path = tmp_path / "picture.html"
        picture.save(path)
        with opened(path, **options) as page:
            yield page

    return show


@pytest.fixture(scope="session")
def contrast():
    """The weakest contrast of any text in an element: ``(ratio, text)``."""

    def weakest(page, selector: str = "body") -> tuple[float, str]:
        ratio, text = page.locator(selector).first.evaluate(CONTRAST)
        return ratio, text

    return weakest


@pytest.fixture(scope="session")
def pixels():
    """The colours of a canvas, ``[row][column] -> (red, green, blue)``."""

    def read(locator) -> list[list[tuple[int, int, int]]]:
        width, height, data = locator.evaluate(PIXELS)
        colours = [tuple(data[at : at + 3]) for at in range(0, len(data), 4)]
        return [colours[row * width : (row + 1) * width] for row in range(height)]

    return read
