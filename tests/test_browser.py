"""The page in a real browser: it sorts, filters, opens and draws by mouse and keyboard, without an error or a request.

Skipped where Chromium, its driver or selenium is not installed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from reclaim.benchmark.leaderboard import write
from reclaim.benchmark.protocols import Protocol, protocol_of, run_of
from reclaim.benchmark.published import cells
from reclaim.benchmark.records import Record, RecordStore
from small_runs import synthetic_record
from test_page import sample

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="Chromium or chromedriver is not installed")

TABLE = "#table-split-quickdraw-10"


@pytest.fixture(scope="module")
def started() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # as root it does not start with one
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def of_cells() -> list[Record]:
    """Runs of two published cells, one without standard deviation, by their protocol."""
    records = []
    for recipe, stream, means in (
        ("slca.main.slca", "split-cifar100-10", (91.4, 91.5, 91.0)),
        ("slca.main.seqft+sl", "split-imagenet-r-10", (74, 74.5, 71)),
    ):
        protocol = protocol_of(run_of(next(cell for cell in cells() if (cell.recipe, cell.stream) == (recipe, stream))))
        assert isinstance(protocol, Protocol)
        records += [synthetic_record(recipe, stream, seed, mean, config=protocol.configs[0]) for seed, mean in enumerate(means)]
    return records


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pages")
    store = RecordStore(folder / "records")
    for record in [*sample(), *of_cells()]:
        store.write(record)
    (path,) = write(store, folder, ["html"])
    return path.as_uri()


@pytest.fixture
def browser(started: Any, url: str) -> Iterator[Any]:
    """The page, opened anew from disk; whatever a test did, the console stayed empty and nothing but the page was asked for."""
    started.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    started.get("about:blank")
    started.get_log("performance")
    started.get_log("browser")
    started.get(url)
    yield started
    assert started.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in started.get_log("performance")]
    requested = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [r for r in requested if r.split("#")[0] != url and not r.startswith("data:")] == []
    assert any(r.split("#")[0] == url for r in requested)  # else the log says nothing


def find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def order(browser: Any, table: str = TABLE) -> list[list[str]]:
    """The recipes that can be seen, by protocol, in the order of the page."""
    bodies = browser.find_elements("css selector", f"{table} tbody")
    return [
        [row.find_element("css selector", "th code").text for row in body.find_elements("css selector", ".row") if row.is_displayed()]
        for body in bodies
        if body.is_displayed()
    ]


def header(browser: Any, title: str) -> Any:
    (found,) = (b for b in browser.find_elements("css selector", f"{TABLE} thead button") if b.text.split(" ")[0] == title)
    return found


def test_sorting_stays_within_protocols(browser: Any) -> None:
    before = [["joint", "slca", "seqft-slow"], ["lora-ce", "lora-aepg"]]
    assert order(browser) == before
    header(browser, "Last-Acc").click()
    assert order(browser) == before
    assert find(browser, f"{TABLE} [aria-sort]").get_attribute("aria-sort") == "descending"
    header(browser, "Last-Acc").click()
    assert order(browser) == [["seqft-slow", "slca", "joint"], ["lora-aepg", "lora-ce"]]
    assert find(browser, f"{TABLE} [aria-sort]").get_attribute("aria-sort") == "ascending"
    header(browser, "Method").click()
    assert order(browser) == [["joint", "slca", "seqft-slow"], ["lora-aepg", "lora-ce"]]
    header(browser, "Rank").click()  # what has no rank is last, both ways
    assert order(browser)[0] == ["slca", "seqft-slow", "joint"]
    header(browser, "Rank").click()
    assert order(browser)[0] == ["seqft-slow", "slca", "joint"]


def test_sorting_keeps_details_with_their_row(browser: Any) -> None:
    find(browser, "[aria-controls='seqft-slow@split-quickdraw-10']").click()
    header(browser, "Last-Acc").click()
    header(browser, "Last-Acc").click()
    after = browser.execute_script("return [...arguments[0].rows].map(r => r.id || r.className)", find(browser, f"{TABLE} tbody"))
    assert after[:3] == ["protocol", "row", "seqft-slow@split-quickdraw-10"]


def test_filter(browser: Any) -> None:
    count = find(browser, "output[data-count='table-split-quickdraw-10']")
    assert count.text == "5 rows"
    box = find(browser, "input[data-table='table-split-quickdraw-10']")
    box.send_keys("lora AEPG")
    assert order(browser) == [["lora-aepg"]]
    assert count.text == "1 of 5 rows"
    box.clear()
    box.send_keys("zzz")
    assert order(browser) == []
    box.send_keys(Keys.BACKSPACE * 3)
    assert sum(map(len, order(browser))) == 5
    box.send_keys("reference")
    assert order(browser) == [["joint"]]


def test_filter_hides_open_details_and_brings_them_back(browser: Any) -> None:
    find(browser, "[aria-controls='slca@split-quickdraw-10']").click()
    detail = browser.find_element("id", "slca@split-quickdraw-10")
    box = find(browser, "input[data-table='table-split-quickdraw-10']")
    box.send_keys("lora")
    assert not detail.is_displayed()
    box.send_keys(Keys.BACKSPACE * 4)
    assert detail.is_displayed()


def test_a_row_opens_and_closes_by_keyboard(browser: Any) -> None:
    button = find(browser, "[aria-controls='slca@split-quickdraw-10']")
    detail = browser.find_element("id", "slca@split-quickdraw-10")
    assert not detail.is_displayed()
    button.send_keys(Keys.ENTER)
    assert detail.is_displayed()
    assert button.get_attribute("aria-expanded") == "true"
    assert "reclaim run slca split-quickdraw-10 --seeds 4" in detail.text
    # from the row into its details, and back by Escape
    button.send_keys(Keys.TAB)
    assert browser.execute_script("return arguments[0].contains(document.activeElement)", detail)
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not detail.is_displayed()
    assert browser.switch_to.active_element == button
    button.send_keys(Keys.SPACE)
    assert detail.is_displayed()


def test_a_link_to_a_row_opens_it(browser: Any, url: str) -> None:
    browser.get(f"{url}#lora-ce@split-quickdraw-10")
    assert browser.find_element("id", "lora-ce@split-quickdraw-10").is_displayed()


def test_curves_are_ticked(browser: Any) -> None:
    curve = find(browser, ".charts .curve[data-key='slca']")
    assert curve.is_displayed()
    box = find(browser, f"{TABLE} input[value='slca']")
    box.click()
    assert not curve.is_displayed()
    assert "SLCA" not in find(browser, "#split-quickdraw-10 .charts .legend").text.splitlines()
    box.send_keys(Keys.SPACE)
    assert curve.is_displayed()
    slots = [
        c.get_attribute("data-slot") for c in browser.find_elements("css selector", "#split-quickdraw-10 .charts li") if c.is_displayed()
    ]
    assert len(slots) == len(set(slots)) == 4


def test_theme(browser: Any) -> None:
    def ground() -> str:
        return browser.execute_script("return getComputedStyle(document.body).backgroundColor")

    colours = {}
    for scheme in ("light", "dark"):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        colours[scheme] = ground()
    assert colours["light"] != colours["dark"]
    button = find(browser, "#theme")
    assert button.text == "Theme: auto"
    button.click()
    assert (button.text, ground()) == ("Theme: light", colours["light"])
    button.click()
    assert (button.text, ground()) == ("Theme: dark", colours["dark"])
    browser.refresh()
    assert (find(browser, "#theme").text, ground()) == ("Theme: dark", colours["dark"])  # it is remembered
    find(browser, "#theme").click()
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("width", [390, 768, 1200])
def test_nothing_is_wider_than_the_screen(browser: Any, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    )
    browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    for button in browser.find_elements("css selector", "button.open"):
        browser.execute_script("arguments[0].click()", button)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    # the second verdict is a column of its own, or a line where there is no room for one
    shown = [node.text for node in browser.find_elements("css selector", "#table-cells-slca .narrow") if node.is_displayed()]
    assert any("as a constant: " in text for text in shown) == (width < 1200)
    assert ("As a constant" in find(browser, "#table-cells-slca thead").text) == (width == 1200)
