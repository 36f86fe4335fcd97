"""The console in a real browser: what is seen, what it does, and what it leaves behind (nothing)."""

import re
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from helpers import assert_refused, mint
from recorder import Recorder, ok
from running import Running

from gateway.ops.console import console_pages

pytestmark = pytest.mark.slow

selenium = pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

PATIENCE = 15  # seconds
PASSES, BLACKLISTED = "✓ The gateway lets this token through.", "✗ The token is blacklisted."


def fresh(**claims: Any) -> str:
    """Return a token with an hour to go of two."""
    now = int(time.time())
    return mint(**{"iat": now - 3600, "exp": now + 3600, "jti": str(time.monotonic_ns()), **claims})


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("console")
    flags = ("--console", "yes", "--metrics-port", "0", "--workers", "1")
    with Recorder(ok()) as upstream, Running(directory, upstream.url, *flags) as running:
        yield running


class Page:
    """The console, opened anew."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver, self.url = driver, f"{url}/-/console"
        driver.get(self.url)

    def __getitem__(self, name: str) -> Any:
        return self.driver.find_element(By.ID, name)

    def paste(self, text: str) -> None:
        self["token"].clear()
        self.driver.execute_cdp_cmd("Input.insertText", {"text": text})

    def text(self, name: str) -> str:
        return str(self[name].text)

    def wait_for(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.driver, PATIENCE, poll_frequency=0.05).until(lambda _: condition())

    def sees(self, name: str, text: str) -> None:
        """Wait until an element shows the text."""
        self.wait_for(lambda: text in self.text(name))

    @property
    def entries(self) -> list[str]:
        rows = self.driver.execute_script(
            "return [...document.querySelectorAll('#entries tr')].map((r) => r.innerText)"
        )
        return [str(row) for row in rows]

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()


@pytest.fixture
def page(driver: Any, gateway: Running) -> Iterator[Page]:
    """Open the page; at the end, see that it behaved as its policy says and left nothing behind."""
    driver.get_log("browser")
    opened = Page(driver, gateway.url)
    yield opened
    told = [entry for entry in driver.get_log("browser") if entry["source"] != "network"]  # a refusal is no fault
    assert told == []
    loaded = driver.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(url.startswith(gateway.url) for url in loaded)
    assert driver.current_url == opened.url
    kept = driver.execute_script(
        "return [document.cookie, localStorage.length, sessionStorage.length, history.state,"
        " (await indexedDB.databases()).length, (await caches.keys()).length]"
    )
    assert kept == ["", 0, 0, None, 0, 0]
    opened["token"].send_keys("x")  # still alive


def test_a_good_token_is_decoded_and_passes(page: Page) -> None:
    page.paste(fresh(sub="1001", email="ada@example.test"))
    page.sees("verdict", PASSES)
    assert re.search("sub 1001\n.*email ada@example.test\n.*alg HS256", page.text("claims"), re.DOTALL)
    assert page.text("left").startswith("expires in 59 minutes")
    assert page["bar"].get_attribute("aria-valuenow") == "50"
    assert page["blacklist"].is_enabled()
    assert not page["restore"].is_enabled()
    assert not page["admin"].is_displayed()
    assert not page["hint"].is_displayed()


def test_a_token_is_blacklisted_and_restored(page: Page, gateway: Running) -> None:
    token = fresh()
    page.paste(token)
    page.sees("verdict", PASSES)
    page["blacklist"].click()
    page.sees("verdict", BLACKLISTED)
    assert gateway.get("/", token).status == 401
    page["restore"].click()
    page.sees("verdict", PASSES)
    assert gateway.get("/", token).status == 200


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        (mint(exp=1000), "The token has expired."),
        (mint("another secret"), "The token's signature does not verify."),
        (mint(iss="https://elsewhere.test/"), "The token comes from another issuer."),
        ("garbage", "The token is not a JWT."),
        ("no token at all", "This is not a token"),
        ("émile", "This is not a token"),
    ],
)
def test_a_token_that_does_not_pass_is_told_why_in_one_sentence(page: Page, token: str, sentence: str) -> None:
    page.paste(token)
    page.sees("verdict", sentence)
    assert not page["actions"].is_displayed()


def test_an_expired_tokens_bar_is_full_of_the_past(page: Page) -> None:
    page.paste(mint(iat=1000, exp=int(time.time()) - 90000))
    page.sees("left", "expired 1 day 1 hour ago")
    assert page["bar"].get_attribute("class") == "over"


def test_what_a_token_says_is_text_and_nothing_else(page: Page) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    page.paste(fresh(sub=evil, scope="blacklist:admin"))
    page.sees("verdict", PASSES)
    assert evil in page.text("claims")
    page["blacklist"].click()
    page.sees("verdict", BLACKLISTED)
    page.paste(fresh(sub="reader", scope="blacklist:admin"))
    page.wait_for(lambda: any(evil in entry for entry in page.entries))
    assert page.driver.find_elements(By.TAG_NAME, "img") == []


def test_clearing_leaves_nothing_to_be_seen(page: Page) -> None:
    page.paste(fresh(scope="blacklist:admin"))
    page.wait_for(page["admin"].is_displayed)
    page["clear"].click()
    page.wait_for(lambda: not page["admin"].is_displayed())
    assert page["token"].get_attribute("value") == page.text("verdict") == page.text("claims") == ""
    assert page["hint"].is_displayed()
    assert not page["lifetime"].is_displayed()
    assert not page["actions"].is_displayed()


def test_an_admin_sees_entries_searches_them_and_lifts_one(page: Page, gateway: Running) -> None:
    admin = fresh(sub="root", scope="other blacklist:admin")
    gateway.request("POST", "/blacklist", admin, {"sub": "3007", "reason": "left the company"})
    gateway.request("POST", "/blacklist", fresh(sub="3008"))
    page.paste(admin)
    page.wait_for(lambda: len(page.entries) >= 2)
    page["search"].send_keys("LEFT the")
    page.wait_for(lambda: len(page.entries) == 1)
    assert 'sub "3007"' in page.entries[0]
    assert page.text("entries-note").startswith("1 of ")
    page["entries"].find_element(By.TAG_NAME, "button").click()
    page.wait_for(lambda: page.entries == [])
    assert gateway.get("/blacklist?sub=3007", admin).json["blacklisted"] is False


def test_a_number_keeps_its_digits_and_what_blacklists_it_is_told(page: Page, gateway: Running) -> None:
    sub = 12345678901234567890
    victim, admin = fresh(sub=sub), fresh(sub="root", scope="blacklist:admin")
    page.paste(admin)
    page.wait_for(page["admin"].is_displayed)
    page["value"].send_keys(str(sub))
    page.driver.execute_script("document.querySelector('details').open = true")
    page["which"].send_keys("all, for good")
    page["until"].send_keys("01012099", Keys.TAB, "101010AM")
    page["logout"].submit()
    page.sees("logged-out", f"✓ Every token with sub {sub} is blacklisted.")
    page.wait_for(lambda: any(f'sub "{sub}"' in entry and "any time" in entry for entry in page.entries))
    assert gateway.get("/", victim).status == 401
    page.paste(victim)
    page.sees("verdict", BLACKLISTED)
    page.sees("against", "All tokens with one of its claims were blacklisted.")
    page.sees("claims", str(sub))


def test_a_tokens_entry_is_lifted_too_and_the_focus_stays(page: Page, gateway: Running) -> None:
    token, admin = fresh(sub="3009"), fresh(sub="root", scope="blacklist:admin")
    gateway.request("POST", "/blacklist", token, {"reason": "unlike others"})
    page.paste(admin)
    page.wait_for(lambda: len(page.entries) >= 1)
    page["search"].send_keys("unlike others")
    page.wait_for(lambda: len(page.entries) == 1)
    page["entries"].find_element(By.TAG_NAME, "button").click()
    page.wait_for(lambda: page.entries == [])
    page.wait_for(lambda: page.driver.execute_script("return document.activeElement.id") == "search")
    assert gateway.get("/", token).status == 200


def test_an_entry_is_lifted_and_none_that_is_spelled_alike(page: Page, gateway: Running) -> None:
    admin = fresh(sub="root", scope="blacklist:admin")
    for sub in ("3e3", 3000):
        gateway.request("POST", "/blacklist", admin, {"sub": sub})
    page.paste(admin)
    page.wait_for(lambda: len(page.entries) >= 2)
    page["search"].send_keys("3e3")
    page.wait_for(lambda: len(page.entries) == 1)
    page["entries"].find_element(By.TAG_NAME, "button").click()
    page.wait_for(lambda: page.entries == [])
    assert gateway.get("/", fresh(sub="3e3")).status == 200
    assert gateway.get("/", fresh(sub=3000)).status == 401


def test_what_cannot_be_lifted_is_told(page: Page, gateway: Running) -> None:
    gateway.request("POST", "/blacklist", fresh(sub="root", scope="blacklist:admin"), {"sub": "3100"})
    page.paste(fresh(sub="reader", scope="blacklist:read"))
    page.wait_for(lambda: len(page.entries) >= 1)
    page["search"].send_keys("3100")
    page.wait_for(lambda: len(page.entries) == 1)
    page["entries"].find_element(By.TAG_NAME, "button").click()
    page.sees("entries-note", "scope")
    assert len(page.entries) == 1
    assert gateway.get("/", fresh(sub="3100")).status == 401


@pytest.mark.parametrize(("claim", "wrong"), [("sub", -3600), ("sid", -3600), ("sid", 3600)])
def test_until_now_is_by_the_gateways_clock(page: Page, gateway: Running, claim: str, wrong: int) -> None:
    """The clock of whoever looks at the page may be wrong: behind, it would spare the newest tokens."""
    value, now = f"clock {wrong} {claim}", int(time.time())
    victim = mint(**{claim: value}, iat=now, exp=now + 600)
    page.driver.execute_script(f"const real = Date.now; Date.now = () => real() + {1000 * wrong};")
    page.paste(fresh(sub="root", scope="blacklist:admin"))
    page.wait_for(page["admin"].is_displayed)
    page.sees("chart-note", "Requests")
    page["claim"].send_keys(claim)
    page["value"].send_keys(value)
    page.driver.execute_script("document.querySelector('details').open = true")
    page["which"].send_keys("those issued until now")
    page["logout"].submit()
    page.sees("logged-out", f"✓ Every token with {claim} {value} issued until now is blacklisted.")
    assert gateway.get("/", victim).status == 401
    query = urlencode({claim: value})
    told = gateway.get(f"/blacklist?{query}", fresh(scope="blacklist:admin")).json
    assert now + 1 <= told["issued_before"] <= int(time.time()) + 3


def test_the_page_says_its_version_and_where_a_refusal_is_explained(page: Page) -> None:
    assert version("jwt-blacklist-gateway") in page.driver.find_element(By.TAG_NAME, "footer").text
    assert not page["help"].is_displayed()
    page.paste(mint(exp=1000))
    page.sees("help", "docs/problems.md#token-expired-401")


def test_the_claims_are_those_that_are_set() -> None:
    page = console_pages(("a<b", "sub"), ("sub",), ("roles",), 0.5)["/-/console"]
    assert b'data-leeway="1"' in b"".join(page({"REQUEST_METHOD": "GET"}, lambda *_: None))
    html = b"".join(page({"REQUEST_METHOD": "GET"}, lambda *_: None)).decode()
    assert "<option data-cut-off>sub</option><option>a&lt;b</option>" in html
    assert 'data-scopes-in="roles"' in html


def test_many_entries_are_loaded_page_by_page(page: Page, gateway: Running) -> None:
    admin = fresh(sub="root", scope="blacklist:admin")
    for number in range(101):
        gateway.request("POST", "/blacklist", admin, {"sid": f"many-{number}"})
    page.paste(admin)
    page.wait_for(page["more"].is_displayed)
    page["more"].click()
    page.wait_for(lambda: len(page.entries) > 100)
    for number in range(101):
        gateway.request("DELETE", "/blacklist", admin, {"sid": f"many-{number}"})


def test_an_admin_logs_a_subject_out_everywhere(page: Page, gateway: Running) -> None:
    admin, victims = fresh(sub="root", scope="blacklist:admin"), [fresh(sub="4001"), fresh(sub=4001)]
    page.paste(admin)
    page.wait_for(page["admin"].is_displayed)
    page["value"].send_keys("4001")
    page["reason"].send_keys("phone lost")
    page["logout"].submit()
    page.sees("logged-out", "✓ Every token with sub 4001 issued until now is blacklisted.")
    page.wait_for(lambda: any('sub "4001"' in entry and "phone lost" in entry for entry in page.entries))
    assert {gateway.get("/", token).status for token in victims} == {401}
    page.paste(victims[0])
    page.sees("verdict", BLACKLISTED)
    page["restore"].click()
    page.sees("verdict", "one for its claims still blacklists it")


def test_the_chart_counts_decisions(page: Page, gateway: Running) -> None:
    gateway.get("/", mint(exp=1000))
    page.paste(fresh(scope="blacklist:admin"))
    page.sees("chart", "token-expired")
    assert "passed" in page.text("chart")
    assert "Requests since the start" in page.text("chart-note")


def test_it_all_works_from_the_keyboard(page: Page, gateway: Running) -> None:
    admin = fresh(sub="keys", scope="blacklist:admin")
    page.press(admin)  # the text area has the focus
    page.sees("verdict", PASSES)
    page.wait_for(page["admin"].is_displayed)
    page.press(Keys.TAB, Keys.ENTER)
    page.sees("verdict", BLACKLISTED)
    page.press(Keys.ENTER)  # the focus is on what undoes it
    page.sees("verdict", PASSES)
    page.wait_for(page["admin"].is_displayed)
    page.press(Keys.TAB, Keys.TAB, "sid", Keys.TAB, "s-1", Keys.TAB, "by keys", Keys.ENTER)
    page.sees("logged-out", "Every token with sid s-1")
    assert gateway.get("/blacklist?sid=s-1", admin).json["blacklisted"] is True
    focusable = "return document.activeElement.id"
    page["search"].send_keys("s-1", Keys.TAB, Keys.ENTER)  # the entry's own button
    page.wait_for(lambda: not page.entries)
    assert page.driver.execute_script(focusable) != "token"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [2560, 1280, 320])
def test_it_fits_and_can_be_read(page: Page, scheme: str, width: int) -> None:
    """Nothing is cut off at the side, and every text has the contrast that WCAG 2.2 asks for (4.5:1)."""
    emulate = page.driver.execute_cdp_cmd
    emulate("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    emulate(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    page.paste(fresh(scope="blacklist:admin", note="x" * 900, words="a b " * 225, number=12345678901234567890))
    page.wait_for(page["admin"].is_displayed)
    page.sees("chart", "passed")
    assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert "12345678901234567890" in page.text("claims")
    # What is long is read by scrolling, with the keyboard as well.
    longs = "return [...document.querySelectorAll('.long')].map((each) => [each.tabIndex, each.ariaLabel])"
    assert [0, "note"] in page.driver.execute_script(longs)
    assert [0, "words"] in page.driver.execute_script(longs)
    contrasts = page.driver.execute_script(CONTRASTS)
    emulate("Emulation.clearDeviceMetricsOverride", {})
    assert len(contrasts) > 30
    assert {text: round(contrast, 1) for text, contrast in contrasts if contrast < 4.5} == {}


CONTRASTS = """
const linear = (part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
const luminance = (color) => {
  const [r, g, b] = color.match(/[\\d.]+/g).map((part) => linear(part / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
  const color = getComputedStyle(element).backgroundColor;
  return color.endsWith(", 0)") ? ground(element.parentElement) : color;
};
const hasText = (element) => [...element.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
return [...document.body.querySelectorAll("*")]
  .filter((element) => element.checkVisibility() && !element.disabled && hasText(element))
  .map((element) => {
    const [a, b] = [getComputedStyle(element).color, ground(element)].map(luminance);
    return [element.textContent.trim().slice(0, 40), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
  });
"""


def test_the_page_needs_no_token_and_is_framed_by_nobody(gateway: Running) -> None:
    for path, media_type in (("", "text/html"), ("/console.css", "text/css"), ("/console.js", "text/javascript")):
        answer = gateway.get(f"/-/console{path}")
        assert (answer.status, answer.fields["Content-Type"]) == (200, f"{media_type}; charset=utf-8")
        policy = answer.fields["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.fields["Cache-Control"] == "no-store"
        assert answer.fields["Referrer-Policy"] == "no-referrer"
        assert gateway.request("POST", f"/-/console{path}").status == 405
    html = (Path(__file__).parents[3] / "gateway/ops/console/console.html").read_text()
    assert not re.search(r"<style|style=|\son\w+=|https?:|<script(?! src=\"/-/console/)", html)


def test_without_the_setting_there_is_no_console(api: Any) -> None:
    assert_refused(api("GET", "/-/console"), "missing-credentials")
    assert_refused(api("GET", "/-/console", mint()), "not-found")
    assert_refused(api("GET", "/-/decisions", mint(scope="blacklist:admin")), "not-found")
