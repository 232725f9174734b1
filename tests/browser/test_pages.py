"""Headless Chromium opens the report and the dashboard: no page error, no console error, no request off the host."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from state_builder import commit_course

from storage.home import open_home
from storage.twins import TwinStore
from tdt_core.twin import TwinState

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.shared_run,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)"),
]
playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


class Watch:
    """Everything that a page did wrong."""

    def __init__(self, page: playwright_api.Page, allowed: set[str]) -> None:
        self.page, self.allowed, self.wrong, self.asked = page, allowed, [], []
        page.on("pageerror", lambda e: self.wrong.append(f"page error: {e}"))
        page.on("console", lambda m: m.type in ("error", "warning") and self.wrong.append(f"console {m.type}: {m.text}"))
        page.on("request", self._request)
        page.on("requestfailed", lambda r: self.wrong.append(f"failed: {r.url}"))
        page.on("response", lambda r: r.status >= 400 and self.wrong.append(f"{r.status}: {r.url}"))

    def _request(self, request: playwright_api.Request) -> None:
        address = urlsplit(request.url)
        if address.scheme in ("data", "blob"):
            return
        self.asked.append(request.url)
        if address.netloc not in self.allowed:
            self.wrong.append(f"request off the host: {request.url}")

    def shoot(self, name: str, folder: Path) -> None:
        path = folder / f"{name}.png"
        self.page.screenshot(path=path, full_page=True)
        assert path.stat().st_size > 20_000, "an almost empty picture"


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright_api.Browser]:
    with playwright_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[TwinState]]:
    home = tmp_path_factory.mktemp("browser") / "home"
    return home, commit_course(home, 2)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def address(course: tuple[Path, list[TwinState]]) -> Iterator[str]:
    code = "import sys; from flows.dashboard import serve_dashboard; serve_dashboard(sys.argv[1])"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(course[0])]
    server = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
        assert found, "the dashboard did not say where it listens"
        yield found.group()
    finally:
        server.terminate()
        server.wait(15)


def report_of(course: tuple[Path, list[TwinState]]) -> Path:
    return course[0] / "derived" / course[1][-1].id / "report.html"


def test_a_report_opens_without_error_or_request(
    browser: playwright_api.Browser, course: tuple[Path, list[TwinState]], pictures: Path
) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    watch = Watch(page, {""})
    page.goto(report_of(course).as_uri())
    state = course[1][-1]
    for words in ("Proposed for cycle 3", "Waiting for a signature", "Time-activity curves", "Coronal MIP", "Sign-off"):
        assert page.get_by_text(words).first.is_visible(), words
    assert page.get_by_role("note").first.is_visible()
    assert page.get_by_text(state.id).first.is_visible()
    assert page.locator("figure.panel svg image").count() >= 8
    widths = page.locator("figure.panel svg").evaluate_all("all => all.map(e => e.getBoundingClientRect().width)")
    assert min(widths) > 80
    bars = page.locator("table svg.bar").first.bounding_box()
    assert bars is not None
    assert bars["width"] == pytest.approx(150, abs=2), "the style sheet was blocked"
    watch.shoot("report", pictures)
    assert watch.asked == [report_of(course).as_uri()]
    assert watch.wrong == []
    page.close()


@pytest.mark.parametrize("width", [390, 820, 1200])
def test_a_report_never_scrolls_sideways(
    browser: playwright_api.Browser, course: tuple[Path, list[TwinState]], width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(report_of(course).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_no_two_words_of_a_chart_lie_on_each_other(
    browser: playwright_api.Browser, course: tuple[Path, list[TwinState]]
) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(report_of(course).as_uri())
    clashes = page.evaluate(
        """() => [...document.querySelectorAll('svg.chart')].filter(s => s.checkVisibility()).flatMap(s => {
            const boxes = [...s.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
            const hit = [];
            boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
                const w = Math.min(p.right, q.right) - Math.max(p.left, q.left);
                const h = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
                if (w > 1 && h > 3.5) hit.push(`${s.getAttribute('aria-label')}: ${a} / ${b}`);
            }));
            return hit;
        })"""
    )
    assert clashes == []
    page.close()


def test_a_printed_report_fits_the_paper_and_shows_the_folded_tables(
    browser: playwright_api.Browser, course: tuple[Path, list[TwinState]], pictures: Path
) -> None:
    page = browser.new_page()
    page.goto(report_of(course).as_uri())
    data = page.pdf(path=pictures / "report.pdf", format="A4")
    assert data[:5] == b"%PDF-"
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 700, "height": 1000})  # A4 less the margins
    cut = page.locator(".scroll").evaluate_all(
        "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText.slice(0, 60))"
    )
    assert cut == [], "tables cut off by the edge of the paper"
    assert page.get_by_text("outside the field of view").first.evaluate("e => e.getBoundingClientRect().height") > 5
    page.close()


def test_the_dashboard_works_and_stays_on_its_host(
    browser: playwright_api.Browser, course: tuple[Path, list[TwinState]], address: str, pictures: Path
) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    watch = Watch(page, {urlsplit(address).netloc})
    page.goto(address)
    state = course[1][-1]
    page.get_by_text("Proposed for cycle 3").first.wait_for(timeout=60_000)
    for words in ("Research use only", state.pid, "waits for a signature", "retrospective", "Absorbed dose of this cycle"):
        assert page.get_by_text(words).first.is_visible(), words
    watch.shoot("overview", pictures)
    page.get_by_text("Dose slices").click()
    page.get_by_text("Unit: Gy").wait_for(timeout=20_000)
    assert page.get_by_text("isodose lines").first.is_visible()
    assert page.locator("canvas").count() >= 1
    page.get_by_text("axial", exact=True).click()
    page.get_by_text(re.compile(r"Slice \d+ of 7\d")).wait_for(timeout=20_000)
    watch.shoot("slices", pictures)
    page.get_by_text("relative SD", exact=True).click()
    page.get_by_text("% of the voxel mean").wait_for(timeout=20_000)
    page.get_by_text("Report", exact=True).click()
    frame = page.frame_locator("iframe")
    frame.get_by_text("Time-activity curves").first.wait_for(timeout=20_000)
    watch.shoot("report_frame", pictures)
    page.get_by_text("Cycle 1", exact=True).first.click()
    page.get_by_text("taken in as history").first.wait_for(timeout=20_000)
    assert watch.wrong == []
    page.close()


def test_a_signature_appears_without_a_reload(
    browser: playwright_api.Browser, course: tuple[Path, list[TwinState]], address: str
) -> None:
    from datetime import UTC, datetime

    from tdt_core.twin import Decision

    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(address)
    page.get_by_text("Waiting for a signature").first.wait_for(timeout=60_000)
    state = course[1][-1]
    store = TwinStore(open_home(course[0], create=False))
    store.decide(Decision(state.id, "refused", None, "A. Person", "physician", "patient unwell"), time=datetime.now(UTC))
    page.get_by_text("Refused by A. Person").first.wait_for(timeout=40_000)
    page.close()


def test_the_dashboard_listens_only_on_this_machine_and_refuses_other_origins(address: str) -> None:
    import http.client

    place = urlsplit(address)
    for origin, expected in ((f"http://{place.netloc}", 101), ("http://evil.example", 403)):
        link = http.client.HTTPConnection(place.hostname or "", place.port, timeout=10)
        link.request(
            "GET",
            "/ws",
            headers={
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Protocol": "bokeh, no-token",
                "Origin": origin,
            },
        )
        status = link.getresponse().status
        link.close()
        assert (status == 403) == (expected == 403), origin
