"""Take the picture of the console that the documents show: `make still` writes docs/console.webp.

It needs chromium's driver. What is seen is a gateway of its own, with a few users and what became of their tokens.
"""

from __future__ import annotations

import base64
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

from helpers import mint  # noqa: E402
from recorder import Recorder, ok, until  # noqa: E402
from running import Running  # noqa: E402
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

LARGEST = 150_000  # bytes
WIDTH = 1280
TAKEN_BACK = (
    ({"sub": "1001"}, "laptop stolen"),
    ({"sid": "08a5019c-17e1-4977-8f42-65a12843ea02"}, "signed out"),
    ({"sub": "2107"}, "left the company"),
)


def fresh(**claims: object) -> str:
    """Return a token with an hour to go of two."""
    now = int(time.time())
    return mint(iat=now - 3600, exp=now + 3600, **claims)


def prepare(gateway: Running) -> str:
    """Have a few requests pass, and some not; return an admin's token."""
    admin = fresh(sub="admin", scope="blacklist:admin")
    users = [fresh(sub=sub) for sub in ("1001", "1002", "2107", "3310")]
    for token in users * 6:
        gateway.get("/info", token)
    for claim, reason in TAKEN_BACK:
        gateway.request("POST", "/blacklist", admin, {**claim, "reason": reason})
    gateway.request("POST", "/blacklist", users[3])
    for token in (users[0], users[2], users[2], users[3], "x.y.z", None):
        gateway.get("/info", token)
    return admin


def take(url: str, token: str, path: Path, profile: Path) -> None:
    """Write a picture of the whole console with this token."""
    driver_path = shutil.which("chromedriver")
    if driver_path is None:
        sys.exit("make still: chromedriver is not installed")
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", f"--window-size={WIDTH},900", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    try:
        driver.get(f"{url}/-/console")
        driver.find_element(By.ID, "token").clear()
        driver.execute_cdp_cmd("Input.insertText", {"text": token})
        seen = until(lambda: driver.find_elements(By.CSS_SELECTOR, "#entries tr:nth-child(3)"))
        if not seen or not until(lambda: driver.find_elements(By.CSS_SELECTOR, "#chart tr")):
            sys.exit("make still: the console does not show what it should")
        driver.execute_script("document.activeElement.blur()")
        height = driver.execute_script("return document.documentElement.scrollHeight")
        wanted = {"format": "webp", "quality": 70, "captureBeyondViewport": True}
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
        taken = driver.execute_cdp_cmd("Page.captureScreenshot", {**wanted, "clip": clip})
        path.write_bytes(base64.b64decode(taken["data"]))
    finally:
        driver.quit()


def main() -> None:
    """Take the picture."""
    path = ROOT / "docs/console.webp"
    with tempfile.TemporaryDirectory() as directory, Recorder(ok()) as upstream:
        flags = ("--console", "yes", "--metrics-port", "0", "--workers", "1")
        with Running(Path(directory), upstream.url, *flags) as gateway:
            take(gateway.url, prepare(gateway), path, Path(directory, "profile"))
    size = path.stat().st_size
    print(f"{path.relative_to(ROOT)}, {size} bytes")
    if size > LARGEST:
        sys.exit(f"make still: that is more than {LARGEST} bytes")


main()
