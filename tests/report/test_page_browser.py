"""The listening page in a real browser, opened from file:// as a listener does."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyloudnorm
import pytest
import soundfile as sf

from stages.report.verdicts import Verdicts, bring_in, read_file
from tests.report import fixtures_report as fixtures
from tests.report.conftest import HOSTILE

webdriver = pytest.importorskip("selenium.webdriver")
UP, DOWN, LEFT, RIGHT, TAB, ENTER = "\ue013", "\ue015", "\ue012", "\ue014", "\ue004", "\ue007"
BROWSER, DRIVER = shutil.which("chromium") or "", "/usr/bin/chromedriver"
if not BROWSER or not Path(DRIVER).exists():
    pytest.skip("needs chromium and chromium-driver: apt-get install chromium chromium-driver", allow_module_level=True)


@pytest.fixture(scope="module")
def root(built: Path) -> Path:
    return built


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
    return page.execute_script(f"return {running}.map((one) => decodeURIComponent(one.getAttribute('src')))")


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


@pytest.mark.parametrize("address", ["reports/index.html", "reports/families/acme/index.html"])
def test_pages_with_a_system_from_elsewhere_open_and_play(browser: Any, elsewhere: Path, address: str) -> None:
    browser.get((elsewhere / address).as_uri())
    browser.execute_script("document.querySelectorAll('audio').forEach((one) => { one.preload = 'metadata'; one.load(); })")
    wait(lambda: browser.execute_script("return [...document.querySelectorAll('audio')].every((one) => one.duration > 0.2)"), "every player has audio")
    assert browser.find_elements("css selector", "audio[src*=epoch-04]")
    assert browser.get_log("browser") == []


def test_every_player_has_audio(page: Any) -> None:
    count = len(page.find_elements("tag name", "audio"))
    page.execute_script("document.querySelectorAll('audio').forEach((one) => { one.preload = 'metadata'; one.load(); })")
    long = "return [...document.querySelectorAll('audio')].filter((one) => one.duration > 0.2).length"
    assert count == 39  # 38 recordings and takes, and the reference
    wait(lambda: page.execute_script(long) == count, "every player knows how long its audio is")
    assert page.get_log("browser") == []


# --- playing ----------------------------------------------------------------------------------------------------------


def loop(page: Any) -> None:
    page.execute_script("document.querySelectorAll('audio').forEach((one) => { one.loop = true; })")


def test_keys_play_one_take_at_a_time_in_the_current_row(page: Any) -> None:
    loop(page)
    press(page, "2")
    wait(lambda: playing(page) == ["audio/codec/test-4.flac"], "2 plays the second column of the first row")
    press(page, "5")
    wait(lambda: playing(page) == ["audio/epoch-04@0.5/test-4-11.flac"], "5 plays the fifth alone")
    press(page, "5")
    wait(lambda: playing(page) == [], "5 again pauses it")
    press(page, DOWN, "4")
    wait(lambda: playing(page) == ["audio/epoch-04/numbers-2-5s-11.flac"], "4 plays in the second row")
    press(page, LEFT)
    wait(lambda: playing(page) == ["audio/base/numbers-2-5s-11.flac"], "arrow left plays the column before")
    press(page, LEFT)
    assert playing(page) == ["audio/base/numbers-2-5s-11.flac"]  # there is no recording of this text
    press(page, UP, "1")
    wait(lambda: playing(page) == ["audio/recording/test-4.flac"], "1 plays the recording of the first row")
    press(page, RIGHT)
    wait(lambda: playing(page) == ["audio/codec/test-4.flac"], "arrow right plays the next column")
    assert page.get_log("browser") == []


def share_when_it_starts(page: Any, start: Callable[[], Any]) -> float:
    """The share of its length at which the take that `start` starts begins."""
    page.execute_script("""
        window.began = null;
        document.addEventListener("playing", ({ target }) => { window.began = [target.currentTime / target.duration]; }, { capture: true, once: true });
    """)
    start()
    return wait(lambda: page.execute_script("return window.began"), "another take plays")[0]


def test_another_column_goes_on_at_the_same_place_in_the_text(page: Any) -> None:
    page.execute_script("document.querySelectorAll('audio').forEach((one) => { one.playbackRate = 0.1; })")
    press(page, "3")
    wait(lambda: playing(page), "3 plays")
    seek = "const one = document.querySelector(\"[data-checkpoint=base] audio\"); one.currentTime = 0.6 * one.duration;"
    wait(lambda: page.execute_script("return heard.duration > 0"), "its length is known")
    page.execute_script(seek)
    assert share_when_it_starts(page, lambda: press(page, "4")) == pytest.approx(0.6, abs=0.1)
    other = "document.querySelector(\"[data-checkpoint='recording'] audio\")"  # as its own button does
    assert share_when_it_starts(page, lambda: page.execute_script(f"{other}.play()")) == pytest.approx(0.6, abs=0.15)
    press(page, "s")
    wait(lambda: page.execute_script("return !heard.paused && heard.currentTime < 0.2 * heard.duration"), "it starts over")
    press(page, "1")
    page.execute_script("heard.currentTime = 0.6 * heard.duration")
    assert share_when_it_starts(page, lambda: press(page, DOWN, "3")) < 0.2  # another text


def test_a_take_in_which_the_browser_cannot_seek_is_played_from_the_start(page: Any) -> None:
    loop(page)
    press(page, "2", "2")  # without a key or a click before, no page may play
    cell = page.find_element("css selector", "[data-checkpoint=base][data-prompt=test-7] audio")
    page.execute_script("arguments[0].currentTime = 0.6; arguments[0].play()", cell)
    wait(lambda: page.execute_script("return !arguments[0].error && !arguments[0].paused && arguments[0].currentTime > 0.05", cell), "it plays")


def test_takes_are_equally_loud_until_one_asks_for_them_as_they_are(page: Any, root: Path) -> None:
    def levels() -> dict[str, float]:
        volumes = page.execute_script("return [...document.querySelectorAll('audio')].map((one) => [decodeURIComponent(one.getAttribute('src')), one.volume])")
        return {wav: loudness(root / "reports/families/cosyvoice3" / wav) + 20 * math.log10(volume) for wav, volume in volumes}

    matched = levels()
    usual = {wav: level for wav, level in matched.items() if "epoch-02" not in wav}
    assert max(usual.values()) - min(usual.values()) < 0.2
    assert "dB too quiet to match" in page.find_element("css selector", "[data-checkpoint=epoch-02]").text
    press(page, "m")
    plain = levels()
    assert max(plain[wav] for wav in usual) - min(plain[wav] for wav in usual) > 4


def loudness(path: Path) -> float:
    audio, rate = sf.read(path)
    return pyloudnorm.Meter(rate).integrated_loudness(audio)


def test_loop_plays_a_take_again_and_again(page: Any) -> None:
    page.execute_script("document.querySelectorAll('audio').forEach((one) => { one.playbackRate = 4; })")
    press(page, "l", "4")
    wait(lambda: playing(page), "4 plays")
    page.execute_script("window.turns = 0; heard.addEventListener('seeked', () => { window.turns += 1; })")
    wait(lambda: page.execute_script("return window.turns") > 1, "it starts over twice")
    press(page, "l")
    wait(lambda: playing(page) == [], "it ends")


def test_a_column_is_played_by_its_number_with_tab_and_enter_alone(page: Any) -> None:
    loop(page)
    press(page, DOWN, TAB)
    focused = page.switch_to.active_element
    assert focused.accessible_name == "Play or pause base, column 3, row 2"
    focused.send_keys(ENTER)
    wait(lambda: playing(page) == ["audio/base/numbers-2-5s-11.flac"], "enter plays it")


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blind", [False, True])
def test_every_control_has_a_name_for_who_does_not_see_it(page: Any, blind: bool) -> None:
    page.execute_script("document.querySelectorAll('.later').forEach((one) => { one.style.contentVisibility = 'visible'; })")
    if blind:
        press(page, "b")
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = ("button", "textbox", "Audio", "group", "image", "table", "region", "link")
    found = [(one["role"]["value"], one.get("name", {}).get("value", "")) for one in nodes if not one["ignored"] and one["role"]["value"] in roles]
    assert {role for role, _ in found} >= ({"button", "textbox", "group", "Audio"} if blind else {*roles})
    assert [role for role, name in found if not name.strip() and role not in ("group", "table")] == []
    ratings = [name for _, name in found if name.startswith("Your rating of")]
    assert len(ratings) == len({*ratings}) == 38
    assert any("epoch-04" in name for _, name in found) != blind


def test_question_mark_shows_the_keys(page: Any) -> None:
    assert "play that column" not in seen(page)
    press(page, "?")
    assert "play that column" in seen(page)
    press(page, "\ue00c")  # escape
    wait(lambda: "play that column" not in seen(page), "escape closes it")


def test_blind_hides_names_and_figures_and_shuffles_rows_by_the_seed_it_shows(page: Any) -> None:
    open_order = order(page)
    telling = ["epoch-04", "real recordings", "WER", "passed", "promoted", "Word error rate", "dropped 3 words", "ship"]
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


def saved(page: Any, path: Path) -> Verdicts:
    """What the page saves to `path`, as the repository reads it."""
    page.find_element("id", "save").click()
    wait(lambda: path.is_file() and path.read_text().endswith("}\n"), "the file is downloaded")
    return read_file(path, "")


def test_verdict_survives_a_reload_and_the_repository_reads_the_saved_file(page: Any, root: Path) -> None:
    def cell() -> Any:
        return page.find_element("css selector", "[data-checkpoint='epoch-04'][data-prompt='test-4']")

    press(page, "3", "x")
    cell().find_element("css selector", "[data-choice=good]").click()
    cell().find_element("class name", "note").click()
    cell().find_element("tag name", "textarea").send_keys("clear, 1 breath; b? <b>")
    page.refresh()
    assert cell().find_element("css selector", "[aria-pressed=true]").text == "good"
    assert cell().find_element("tag name", "textarea").get_property("value") == "clear, 1 breath; b? <b>"
    assert "2 of 38 rated" in seen(page)
    page.find_element("id", "save").click()
    assert "Write your name, then save" in seen(page)
    page.switch_to.active_element.send_keys("Anna B.")
    verdicts = saved(page, root / "downloads/verdicts-cosyvoice3-Anna-B-.json")
    assert verdicts.rater == "Anna B."
    assert {take: (one.rating, one.note, one.blind) for take, one in verdicts.by_take().items()} == {
        ("base", "test-4", 11): ("bad", "", False),
        ("epoch-04", "test-4", 11): ("good", "clear, 1 breath; b? <b>", False),
    }


def test_a_verdict_on_a_checkpoint_stands_beside_ones_own_ratings_and_is_saved(page: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    press(page, "4", "g", DOWN, "4", "a")
    row = page.find_element("css selector", ".decide [data-checkpoint='epoch-04']")
    page.execute_script("arguments[0].scrollIntoView()", row)
    assert "1 good, 1 acceptable" in row.text
    row.find_element("css selector", "[data-choice='do not ship']").click()
    page.refresh()
    page.find_element("id", "rater").send_keys("Cleo")
    verdicts = saved(page, root / "downloads/verdicts-cosyvoice3-Cleo.json")
    assert [(one.checkpoint, one.verdict) for one in verdicts.checkpoints] == [("epoch-04", "do not ship")]
    monkeypatch.chdir(root)
    said = bring_in(root / "downloads/verdicts-cosyvoice3-Cleo.json", ["cosyvoice3"])
    shutil.rmtree("reports/verdicts")
    assert said == "reports/verdicts/cosyvoice3/cleo.json: 3 verdicts by Cleo; `make report` shows them"


def test_verdict_on_audio_made_anew_is_not_restored(page: Any) -> None:
    press(page, "3", "g")
    assert "1 of 38 rated" in seen(page)
    page.execute_script("""
        const kept = JSON.parse(localStorage["verdicts/cosyvoice3"]);
        kept.verdicts["base/test-4/11"].sha256 = "f".repeat(64);
        localStorage["verdicts/cosyvoice3"] = JSON.stringify(kept);
    """)
    page.refresh()
    assert "0 of 38 rated" in seen(page)


def test_markup_in_a_transcript_is_inert(page: Any) -> None:
    assert HOSTILE in seen(page)
    assert page.title != "owned"
    assert page.find_elements("tag name", "img") == []


@pytest.mark.parametrize("address", ["reports/index.html", "reports/families/cosyvoice3/index.html"])
def test_phone_scrolls_sideways_only_inside_tables(browser: Any, root: Path, address: str) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True})
    try:
        browser.get((root / address).as_uri())
        browser.execute_script("document.querySelectorAll('.later').forEach((one) => { one.style.contentVisibility = 'visible'; })")
        assert browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [390, 390]
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
