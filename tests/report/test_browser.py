"""The page in a real browser: it sorts, filters, opens and draws by mouse and keyboard, without an error or a request.

Skipped where Chromium, its driver or selenium is not installed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reclaim.benchmark.papers.protocols import Protocol, protocol_of, run_of
from reclaim.benchmark.papers.published import cells
from reclaim.benchmark.recipes import RECIPES, recipes_of
from reclaim.benchmark.records.record import Record
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.report.board import rows
from reclaim.benchmark.report.leaderboard import write
from reclaim.benchmark.report.page import render
from reclaim.benchmark.verdicts.cells import check_cells
from reclaim.benchmark.verdicts.claims import judge_claims
from small_runs import synthetic_record
from test_page import of_all_tiers, sample

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="Chromium or chromedriver is not installed")

TABLE = "#table-methods"
SPLIT = "split-quickdraw-10"


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
        records += [
            synthetic_record(recipe, stream, seed, mean, config=protocol.configs[0]) for seed, mean in enumerate(means)
        ]
    return records


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pages")
    store = RecordStore(folder / "records")
    for record in [*sample(), *of_cells()]:
        store.write(record)
    (path,) = write(store, folder, ["html"])
    return path.as_uri()


@pytest.fixture(scope="module")
def url_of_all_tiers(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tiers") / "index.html"
    path.write_text(of_all_tiers("middle", "dense"), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def browser(started: Any, url: str) -> Iterator[Any]:
    """The page, opened anew from disk; whatever a test did, the console stayed empty and nothing but the
    page was asked for.
    """
    started.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    visit(started, "about:blank")
    started.get_log("performance")
    started.get_log("browser")
    visit(started, url)
    yield started
    assert started.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in started.get_log("performance")]
    requested = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [r for r in requested if r.split("#")[0] != url and not r.startswith("data:")] == []
    assert any(r.split("#")[0] == url for r in requested)  # else the log says nothing


def visit(browser: Any, url: str) -> None:
    """Open a page. On a busy machine the driver comes back while the one before is still there, or none."""
    browser.get(url)
    is_there = "return location.href.split('#')[0] === arguments[0] && document.readyState === 'complete'"
    WebDriverWait(browser, 30).until(lambda b: b.execute_script(is_there, url.split("#")[0]))


def find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def order(browser: Any) -> list[str]:
    """The recipes that can be seen, in the order of the page."""
    rows = browser.find_elements("css selector", f"{TABLE} .row")
    return [row.find_element("css selector", "th code").text for row in rows if row.is_displayed()]


def row(browser: Any, id: str) -> Any:
    return browser.find_element("id", id)


def opener(browser: Any, id: str) -> Any:
    return row(browser, id).find_element("css selector", ".open")


def curve_box(browser: Any, id: str) -> Any:
    """The box that ticks the curves of a row. They are drawn only when they come near."""
    find(browser, "#curves").location_once_scrolled_into_view  # noqa: B018
    return WebDriverWait(browser, 30).until(lambda b: find(b, f"#curves input[value='{id}']"))


def header(browser: Any, title: str) -> Any:
    (found,) = (
        b for b in browser.find_elements("css selector", f"{TABLE} thead button") if b.text.split(" ")[0] == title
    )
    return found


def test_all_protocols_of_a_stream_are_sorted_together(browser: Any) -> None:
    falling = ["joint", "slca", "lora-ce", "lora-aepg", "seqft-slow"]
    assert order(browser) == falling
    header(browser, "Last-Acc").click()
    assert order(browser) == falling
    assert find(browser, f"{TABLE} [aria-sort]").get_attribute("aria-sort") == "descending"
    header(browser, "Last-Acc").click()
    assert order(browser) == falling[::-1]
    assert find(browser, f"{TABLE} [aria-sort]").get_attribute("aria-sort") == "ascending"
    header(browser, "Rank").click()  # what has no rank is last, both ways
    assert order(browser)[-1] == "joint"
    header(browser, "Rank").click()
    assert order(browser)[-1] == "joint"


def test_the_stream_is_chosen(browser: Any) -> None:
    assert {
        row.get_attribute("id").split("@")[1]
        for row in browser.find_elements("css selector", f"{TABLE} .row")
        if row.is_displayed()
    } == {SPLIT}
    find(browser, "#stream option[value='quickdraw-1']").click()
    assert order(browser) == ["olor-1"]
    find(browser, "#stream option[value='']").click()
    assert len(order(browser)) == 6


def test_the_address_keeps_stream_filter_order_and_curves(browser: Any, url: str) -> None:
    find(browser, "input[data-filter='methods']").send_keys("lora")
    header(browser, "Last-Acc").click()
    header(browser, "Last-Acc").click()
    curve_box(browser, f"slca@{SPLIT}").click()
    address = browser.current_url
    assert "#methods?" in address
    visit(browser, "about:blank")
    visit(browser, address)
    # rows are laid out some time after that
    assert WebDriverWait(browser, 30).until(order) == ["lora-aepg", "lora-ce"]
    assert find(browser, f"{TABLE} [aria-sort]").get_attribute("aria-sort") == "ascending"
    assert not find(browser, f"#curves input[value='slca@{SPLIT}']").is_selected()
    assert find(browser, f"#curves input[value='lora-ce@{SPLIT}']").is_selected()


def with_joint_in_the_middle() -> list[Record]:
    """Eleven recipes of one protocol, each best in another column, and joint training,
    whose Last-Acc is between theirs.
    """
    joint = RECIPES["joint"].config
    protocol = joint.backbone, joint.epochs
    recipes = [
        r.name
        for r in recipes_of("embedded").values()
        if (r.config.backbone, r.config.epochs) == protocol and not r.fact and not r.config.joint
    ]
    records = []
    for place, recipe in enumerate(recipes[:11]):
        record = synthetic_record(recipe, last_acc=50 + place)
        result = record.result
        result["accuracy"] = [[float(30 + place * 5 % 11 + 3 * t)] * (t + 1) for t in range(9)] + result["accuracy"][9:]
        result["accuracy_task_known"] = [[float(60 + place * 7 % 11)] * (t + 1) for t in range(10)]
        result["bytes_kept"] = 100 + place * 3 % 11
        clock = ("cpu_seconds", "wall_seconds", "")[place % 3]
        record.provenance.update({clock: 5.0 + place * 20 % 110} if clock else {})
        records.append(record)
    return [*records, synthetic_record("joint", last_acc=55.5)]


def test_every_column_sorts_by_its_numbers_with_joint_last_where_it_has_none(started: Any, tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "records")
    for record in with_joint_in_the_middle():
        store.write(record)
    (path,) = write(store, tmp_path, ["html"])
    started.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    visit(started, path.as_uri())
    (body,) = started.find_elements("css selector", f"{TABLE} > tbody")
    started.set_window_size(1400, 900)  # all columns
    buttons = started.find_elements("css selector", f"{TABLE} thead button")
    titles = [button.text for button in buttons]
    assert titles == [
        *("Method", "Protocol", "Last-Acc", "Rank in protocol", "Inc-Acc", "Forgetting", "Last-Acc, task known"),
        *("Bytes kept", "Seconds", "n", "Claims"),
    ]
    for title, button in zip(titles, buttons, strict=True):
        for sign in (1, -1):
            # joint training back into the middle: once last, it would stay there also where nothing puts it there
            started.execute_script(
                "const body = arguments[0], joint = document.getElementById('joint@split-quickdraw-10');"
                "body.insertBefore(joint, [...body.querySelectorAll('.row')].filter(row => row !== joint)[6])",
                body,
            )
            button.click()
            th = button.find_element("xpath", "..")
            column = th.get_property("cellIndex")
            rows = started.execute_script(
                "return [...arguments[0].querySelectorAll('.row')].map(r => [r.cells[0].textContent, "
                "r.cells[arguments[1]].textContent])",
                body,
                column,
            )
            assert len(rows) == 12
            lasts = [text for _, text in rows if not re.match(r"-?\d", text)]
            known = [
                float(re.split(r"[ (±]", text)[0])
                for _, text in rows[: len(rows) - len(lasts)]
                if title not in ("Method", "Protocol", "Claims")
            ]
            up = th.get_attribute("aria-sort") == "ascending"
            assert known == sorted(known, reverse=not up), (title, sign)
            if title in ("Rank in protocol", "Inc-Acc", "Forgetting", "Last-Acc, task known"):
                assert (len(set(known)), lasts) == (11, ["-"])
                assert "joint" in rows[-1][0]
            elif title == "Seconds":
                assert (len(known), lasts) == (8, ["-"] * 4)
                assert any("(wall)" in text for _, text in rows)
            elif title == "Last-Acc":
                assert "joint" in rows[6 if up else 5][0]


def test_sorting_keeps_details_with_their_row(browser: Any) -> None:
    opener(browser, f"seqft-slow@{SPLIT}").click()
    header(browser, "Last-Acc").click()
    header(browser, "Last-Acc").click()
    after = browser.execute_script(
        "return [...arguments[0].rows].map(r => r.id || r.className)", find(browser, f"{TABLE} tbody")
    )
    assert after[:3] == [SPLIT, f"seqft-slow@{SPLIT}", f"seqft-slow@{SPLIT}:detail"]


def test_filter(browser: Any) -> None:
    count = find(browser, "output[data-count='methods']")
    assert count.text == "5 rows"
    box = find(browser, "input[data-filter='methods']")
    box.send_keys("lora AEPG")
    assert order(browser) == ["lora-aepg"]
    assert count.text == "1 of 5 rows"
    box.clear()
    box.send_keys("zzz")
    assert order(browser) == []
    box.send_keys(Keys.BACKSPACE * 3)
    assert len(order(browser)) == 5
    box.send_keys("reference")
    assert order(browser) == ["joint"]


def test_a_filter_unfolds_what_it_finds(browser: Any) -> None:
    cell = row(browser, "slca/main/slca/split-cifar100-10/last_acc")
    assert not cell.is_displayed()
    find(browser, "input[data-filter='numbers']").send_keys("slca split-cifar100-10 reproduced")
    assert cell.is_displayed()


def test_filter_hides_open_details_and_brings_them_back(browser: Any) -> None:
    opener(browser, f"slca@{SPLIT}").click()
    detail = browser.find_element("id", f"slca@{SPLIT}:detail")
    box = find(browser, "input[data-filter='methods']")
    box.send_keys("lora")
    assert not detail.is_displayed()
    box.send_keys(Keys.BACKSPACE * 4)
    assert detail.is_displayed()


def test_a_row_opens_and_closes_by_keyboard(browser: Any) -> None:
    button = opener(browser, f"slca@{SPLIT}")
    assert not browser.find_elements("id", f"slca@{SPLIT}:detail")
    button.send_keys(Keys.ENTER)
    detail = browser.find_element("id", f"slca@{SPLIT}:detail")
    assert detail.is_displayed()
    assert button.get_attribute("aria-expanded") == "true"
    assert button.get_attribute("aria-controls") == detail.get_attribute("id")
    assert "reclaim run slca split-quickdraw-10 --seeds 4" in detail.text
    assert "1 comparisons" not in detail.text
    numbers = dict(zip(texts(detail, "dt"), texts(detail, "dd"), strict=True))
    assert numbers["Last-Acc"].startswith("61.50; sd 1.29, 95% interval 59.")
    assert numbers["Rank in its protocol"] == "1 of 2, 95% interval 1 to 1"
    assert len(detail.find_elements("css selector", ".heat")) == 2
    assert len(detail.find_elements("css selector", "figure.chart")) == 2
    # from the row into its details, and back by Escape
    button.send_keys(Keys.TAB)
    assert browser.execute_script("return arguments[0].contains(document.activeElement)", detail)
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not detail.is_displayed()
    assert browser.switch_to.active_element == button
    button.send_keys(Keys.SPACE)
    assert detail.is_displayed()


def texts(node: Any, tag: str) -> list[str]:
    return [one.text for one in node.find_elements("css selector", tag)]


def test_the_claims_are_a_few_tab_stops_away(browser: Any) -> None:
    stops = browser.execute_script(
        "const first = document.querySelector('#claims .row');"
        "return [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex]')]"
        ".filter(e => e.checkVisibility() && e.compareDocumentPosition(first) & 4).length"
    )
    assert stops < 40
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the claims"


def test_a_link_to_a_row_opens_it(browser: Any, url: str) -> None:
    visit(browser, f"{url}#lora-ce@{SPLIT}")
    assert browser.find_element("id", f"lora-ce@{SPLIT}:detail").is_displayed()
    # its name is below the header that stays
    name, head = opener(browser, f"lora-ce@{SPLIT}"), find(browser, f"{TABLE} thead th")
    top = "return arguments[0].getBoundingClientRect()"
    assert browser.execute_script(f"{top}.top", name) >= browser.execute_script(f"{top}.bottom", head)
    # on a stream that is not the one on show
    visit(browser, "about:blank")
    visit(browser, f"{url}#olor-1@quickdraw-1")
    assert browser.find_element("id", "olor-1@quickdraw-1:detail").is_displayed()


def screen(browser: Any, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )


@pytest.mark.parametrize(
    ("opened", "texts"),
    [
        (
            "slca/main/slca/split-cifar100-10/last_acc",
            (
                "91.53; sd 0.28; n = 3",
                "View-Batch Model",
                "reclaim run --cell slca/main/slca/split-cifar100-10 --root DIR --seeds 3",
            ),
        ),
        (
            "slca/alignment",
            ("95% interval", "SLCA, main tables", "reclaim run seqft-slow split-quickdraw-10 --seeds 3"),
        ),
    ],
)
def test_on_a_phone_cells_and_claims_open_with_what_their_rows_have_no_room_for(
    browser: Any, opened: str, texts: tuple[str, ...]
) -> None:
    screen(browser, 390)
    browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    button = opener(browser, opened)
    assert not any(svg.is_displayed() for svg in row(browser, opened).find_elements("css selector", "svg"))
    button.send_keys(Keys.ENTER)
    detail = browser.find_element("id", f"{opened}:detail")
    assert all(text in detail.text for text in texts)
    if opened.startswith("slca/main"):
        assert [a.text for a in detail.find_elements("css selector", "a")] == ["0", "1", "2"]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    button.send_keys(Keys.ESCAPE)
    assert not detail.is_displayed()


@pytest.mark.parametrize("link", ["slca/alignment", "slca/slca-pp", "slca/main/seqft+sl/split-imagenet-r-10/last_acc"])
def test_a_link_to_a_claim_or_cell_opens_it(browser: Any, url: str, link: str) -> None:
    assert not browser.find_elements("id", f"{link}:detail")
    visit(browser, f"{url}#{link}")
    assert browser.find_element("id", f"{link}:detail").is_displayed()


def test_every_value_of_a_matrix_can_be_read(browser: Any) -> None:
    """WCAG AA: 4.5 to 1, by the colours that the browser paints, light and dark."""
    contrasts = """
    const cell = document.querySelector(".heat td[style]");
    const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const luminance = (colour) => {
      pen.fillStyle = colour;
      pen.fillRect(0, 0, 1, 1);
      const parts = [...pen.getImageData(0, 0, 1, 1).data].map((byte) => byte / 255);
      const linear = parts.map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
      return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05;
    };
    document.documentElement.style.colorScheme = arguments[0];
    return [...Array(101).keys()].map((value) => {
      cell.style.setProperty("--v", value);
      const { color, backgroundColor } = getComputedStyle(cell);
      const [a, b] = [luminance(color), luminance(backgroundColor)];
      return [Math.max(a, b) / Math.min(a, b), backgroundColor];
    });
    """
    opener(browser, f"slca@{SPLIT}").click()
    for scheme in ("light", "dark"):
        found = browser.execute_script(contrasts, scheme)
        assert len({ground for _, ground in found}) == 71  # one up to 30, then each its own
        assert [(value, contrast) for value, (contrast, _) in enumerate(found) if contrast < 4.5] == []


def test_curves_are_ticked_beside_them(browser: Any) -> None:
    curve = f"#curves .curve[data-key='slca@{SPLIT}']"
    box = curve_box(browser, f"slca@{SPLIT}")
    assert len(browser.find_elements("css selector", curve)) == 2  # accuracy and entropy
    assert len(find(browser, curve).find_elements("css selector", "path")) == 2  # a band and a line
    box.click()
    assert not browser.find_elements("css selector", curve)
    box.send_keys(Keys.SPACE)
    assert find(browser, curve).is_displayed()
    slots = [c.get_attribute("data-slot") for c in browser.find_elements("css selector", "#curves .sample[data-slot]")]
    assert len(slots) == len(set(slots)) == 4
    assert not browser.find_elements("css selector", f"#curves input[value='joint@{SPLIT}']")


def test_theme(browser: Any) -> None:
    def ground() -> str:
        return browser.execute_script("return getComputedStyle(document.body).backgroundColor")

    colours = {}
    for scheme in ("light", "dark"):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
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
    screen(browser, width)
    browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    browser.execute_script("for (const b of document.querySelectorAll('button.open')) b.click()")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    # columns go one after another, never all at once
    shown = [text for text in texts(find(browser, f"{TABLE} thead"), "th") if text]
    assert len(shown) == {390: 3, 768: 7, 1200: 11}[width]


def test_a_long_word_does_not_widen_the_page(browser: Any) -> None:
    screen(browser, 390)
    browser.execute_script("for (const b of document.querySelectorAll('th .open')) b.textContent = 'long'.repeat(200)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


def barriers(browser: Any) -> list[tuple[str, str]]:
    """What axe-core finds on the page as it is."""
    axe = pytest.importorskip(
        "axe_core_python.base", reason="axe-core-python is not installed"
    ).AXE_FILE_PATH.read_text("utf-8")
    browser.execute_script(axe)
    browser.set_script_timeout(300)
    found = browser.execute_async_script("const done = arguments[0]; axe.run().then(r => done(r.violations))")
    return [(v["id"], v["nodes"][0]["html"]) for v in found]


@pytest.mark.parametrize("width", [1440, 1024, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, scheme: str, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    screen(browser, width)
    browser.execute_script("for (const d of document.querySelectorAll('#claims details')) d.open = true")
    for opened in ("slca/alignment", f"slca@{SPLIT}"):
        opener(browser, opened).send_keys(Keys.ENTER)
    curve_box(browser, f"slca@{SPLIT}")
    found = barriers(browser)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert found == []


@pytest.mark.parametrize("width", [1440, 390])
def test_a_page_of_all_tiers_fits_and_has_no_barrier(started: Any, url_of_all_tiers: str, width: int) -> None:
    screen(started, width)
    visit(started, url_of_all_tiers)
    assert find(started, "#dense table").is_displayed()
    started.execute_script("for (const d of document.querySelectorAll('#claims details')) d.open = true")
    opener(started, "olor/dense-sem-full").click()
    assert "mIoU on quickdraw-canvases" in started.find_element("id", "olor/dense-sem-full:detail").text
    find(started, "#stream option[value='split-cifar10-5']").click()
    assert {name.split("-")[0] for name in order(started)} == {"lite"}
    assert started.execute_script("return document.documentElement.scrollWidth") <= width
    assert barriers(started) == []


def test_a_table_of_many_recipes(started: Any, tmp_path: Path) -> None:
    """No row's details are built before it is opened, and a long table shows its first rows."""
    records = [*sample(), *of_cells()]
    table = rows([*sample()])
    more = [replace(row, key=f"{row.key}-{k}") for k in range(100) for row in table]
    path = tmp_path / "index.html"
    path.write_text(render(more, judge_claims(sample()), check_cells(records)), encoding="utf-8")
    started.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    visit(started, path.as_uri())
    assert started.execute_script("return document.querySelectorAll('.row').length") > 600
    assert started.execute_script("return document.querySelectorAll('.detail').length") == 0
    find(started, f"{TABLE} th[data-key='last_acc'] button").click()
    find(started, f"{TABLE} th[data-key='last_acc'] button").click()
    visible = (
        "return [...document.querySelectorAll('#table-methods .row')].filter(r => r.checkVisibility()).map(r => r.id)"
    )
    assert started.execute_script(visible)[0].startswith("seqft-slow-")
    # what is laid out is bounded, until all is asked for; a link finds its row
    assert len(started.execute_script(visible)) == 100
    find(started, "#show-all").click()
    assert len(started.execute_script(visible)) == 500
    visit(started, "about:blank")
    visit(started, f"{path.as_uri()}#seqft-slow-99@{SPLIT}")
    assert row(started, f"seqft-slow-99@{SPLIT}").is_displayed()
