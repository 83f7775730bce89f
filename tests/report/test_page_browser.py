"""The listening page in a real browser, opened from file:// as a listener does."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.report.verdicts import read_verdicts
from tests.report import fixtures_report as fixtures

webdriver = pytest.importorskip("selenium.webdriver")
BROWSER, DRIVER = shutil.which("chromium") or "", "/usr/bin/chromedriver"
if not BROWSER or not Path(DRIVER).exists():
    pytest.skip("needs chromium and chromium-driver: apt-get install chromium chromium-driver", allow_module_level=True)

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fixtures.build_pages(tmp_path_factory.mktemp("browser") / "a project's", HOSTILE)


@pytest.fixture(scope="module")
def browser(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking",
                     "window-size=1400,2000", f"user-data-dir={profile}"):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.add_experimental_option("prefs", {"download.default_directory": str(root / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, root: Path) -> Any:
    """The family's page, with nothing kept from another test."""
    address = (root / "reports/families/cosyvoice3/index.html").as_uri()
    browser.get(address)
    browser.execute_script("localStorage.clear()")
    browser.get_log("browser")
    browser.get(address)
    return browser


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.switch_to.active_element.send_keys(key)


def wait(condition: Callable[[], Any], what: str, seconds: float = 40) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"after {seconds} s: {what}")


def playing(page: Any) -> list[str]:
    """The sources, relative to the page, of all players that run."""
    running = "[...document.querySelectorAll('audio')].filter((one) => !one.paused)"
    return page.execute_script(f"return {running}.map((one) => one.getAttribute('src'))")


def order(page: Any, row: int = 0) -> list[str]:
    cells = "document.querySelectorAll('tbody.prompt')[arguments[0]].querySelectorAll('.cell')"
    return page.execute_script(f"return [...{cells}].map((one) => one.dataset.checkpoint)", row)


def seen(page: Any) -> str:
    return page.execute_script("return document.body.innerText")


@pytest.mark.parametrize(
    "address", ["reports/index.html", *(f"reports/families/{name}/index.html" for name in fixtures.LOST)]
)
def test_page_opens_without_an_error(browser: Any, root: Path, address: str) -> None:
    browser.get((root / address).as_uri())
    assert browser.get_log("browser") == []


def test_every_player_has_audio(page: Any) -> None:
    count = len(page.find_elements("tag name", "audio"))
    page.execute_script(
        "document.querySelectorAll('audio').forEach((one) => { one.preload = 'metadata'; one.load(); })"
    )
    long = "return [...document.querySelectorAll('audio')].filter((one) => one.duration > 0.2).length"
    assert count == 20
    wait(lambda: page.execute_script(long) == count, "every player knows how long its audio is")
    assert page.get_log("browser") == []


def test_keys_play_one_take_at_a_time_in_the_current_row(page: Any) -> None:
    page.execute_script("document.querySelectorAll('audio').forEach((one) => { one.loop = true; })")
    press(page, "2")
    wait(lambda: playing(page) == ["audio/codec/test-3.flac"], "2 plays the second column of the first row")
    press(page, "5")
    wait(lambda: playing(page) == ["audio/epoch-04/test-3-11.flac"], "5 plays the fifth alone")
    press(page, "5")
    wait(lambda: playing(page) == [], "5 again pauses it")
    press(page, "\ue015", "4")  # arrow down
    wait(lambda: playing(page) == ["audio/epoch-02/general-1-11.flac"], "4 plays in the second row")
    press(page, "\ue013", "1")  # arrow up
    wait(lambda: playing(page) == ["audio/recording/test-3.flac"], "1 plays the recording of the first row")
    assert page.get_log("browser") == []


def test_question_mark_shows_the_keys(page: Any) -> None:
    assert "play that column" not in seen(page)
    press(page, "?")
    assert "play that column" in seen(page)
    press(page, "\ue00c")  # escape
    wait(lambda: "play that column" not in seen(page), "escape closes it")


def test_blind_hides_names_and_figures_and_shuffles_rows_by_the_seed_it_shows(page: Any) -> None:
    open_order = order(page)
    telling = ["epoch-04", "recording", "WER", "passed", "promoted", "Word error rate", "dropped 3 words"]
    assert all(word in seen(page) for word in telling)
    press(page, "b")
    assert [word for word in telling if word in seen(page)] == []
    shown = page.find_element("id", "seed").text
    assert shown in seen(page)
    blind_orders = [order(page, row) for row in range(4)]
    assert sorted(blind_orders[0]) == sorted(open_order)
    page.refresh()
    press(page, "b")
    assert page.find_element("id", "seed").text == shown
    assert [order(page, row) for row in range(4)] == blind_orders
    press(page, "b")
    assert order(page) == open_order
    assert all(word in seen(page) for word in telling)


def test_blind_order_differs_between_rows_and_seeds(page: Any) -> None:
    press(page, "b")
    orders = set()
    for _ in range(6):
        orders |= {tuple(order(page, row)) for row in (0, 2)}
        page.find_element("id", "reshuffle").click()
    assert len(orders) > 4


def test_verdict_survives_a_reload_and_the_repository_reads_the_saved_file(page: Any, root: Path) -> None:
    press(page, "3", "x")
    cell = page.find_element("css selector", "[data-checkpoint='epoch-04'][data-prompt='test-3']")
    cell.find_element("css selector", "[data-rating=good]").click()
    cell.find_element("class name", "note").click()
    cell.find_element("tag name", "textarea").send_keys("clear, 1 breath; b? <b>")
    page.refresh()
    cell = page.find_element("css selector", "[data-checkpoint='epoch-04'][data-prompt='test-3']")
    assert cell.find_element("css selector", "[aria-pressed=true]").text == "good"
    assert cell.find_element("tag name", "textarea").get_property("value") == "clear, 1 breath; b? <b>"
    assert "2 of 20 rated" in seen(page)
    page.find_element("id", "save").click()
    saved = root / "downloads/verdicts-cosyvoice3.json"
    wait(lambda: saved.is_file() and saved.read_text().endswith("}\n"), "the file is downloaded")
    verdicts = read_verdicts(saved, "cosyvoice3").by_take()
    assert {take: (one.rating, one.note, one.blind) for take, one in verdicts.items()} == {
        ("base", "test-3", 11): ("bad", "", False),
        ("epoch-04", "test-3", 11): ("good", "clear, 1 breath; b? <b>", False),
    }


def test_verdict_on_audio_made_anew_is_not_restored(page: Any) -> None:
    press(page, "3", "g")
    assert "1 of 20 rated" in seen(page)
    page.execute_script("""
        const kept = JSON.parse(localStorage["verdicts/cosyvoice3"]);
        kept.verdicts["base/test-3/11"].sha256 = "f".repeat(64);
        localStorage["verdicts/cosyvoice3"] = JSON.stringify(kept);
    """)
    page.refresh()
    assert "0 of 20 rated" in seen(page)


def test_markup_in_a_transcript_is_inert(page: Any) -> None:
    assert HOSTILE in seen(page)
    assert page.title != "owned"
    assert page.find_elements("tag name", "img") == []


@pytest.mark.parametrize("address", ["reports/index.html", "reports/families/cosyvoice3/index.html"])
def test_narrow_screen_scrolls_only_inside_tables(browser: Any, root: Path, address: str) -> None:
    browser.set_window_size(500, 900)
    try:
        browser.get((root / address).as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    finally:
        browser.set_window_size(1400, 2000)
