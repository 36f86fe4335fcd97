"""Shared fixtures: a clock, the gate around an echoing app over a real SQLite store, and a client."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from wsgiref.validate import validator

import hypothesis
import pytest
from werkzeug.middleware.lint import LintMiddleware

pytest.register_assert_rewrite("helpers")
hypothesis.settings.register_profile("quick", deadline=None, max_examples=60)
hypothesis.settings.load_profile("quick")

from helpers import SECRET, Api, Clock  # noqa: E402

from gateway import Gateway, Settings  # noqa: E402
from gateway.blacklist.stores.sqlite.store import SqliteStore  # noqa: E402
from gateway.http.build import BUILD  # noqa: E402
from gateway.http.problems import StoreUnavailable  # noqa: E402


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out modules whose tests are all slow where none is run: what they import takes each process seconds."""
    is_quick = config.option.markexpr == "not slow" and collection_path.suffix == ".py"
    return True if is_quick and "\npytestmark = pytest.mark.slow\n" in collection_path.read_text() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skipped = pytest.mark.skipif(BUILD == "compiled", reason="compiled modules cannot be changed from outside")
    for item in items:
        if item.get_closest_marker("interpreted"):
            item.add_marker(skipped)


CHROMIUM_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1280,1000"
)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings come from the test alone."""
    for name in os.environ:
        if name.startswith("GATEWAY_"):
            monkeypatch.delenv(name)


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Upstream:
    """A WSGI app that remembers each request it got and answers with its fields."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        self.requests.append(environ)
        body = json.dumps({"path": environ["PATH_INFO"]}).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
def store_url() -> Iterator[str]:
    """Return the URL of a store that is not there yet, in memory where possible: syncing is tested elsewhere."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        yield f"sqlite:///{directory}/blacklist.sqlite3"


@cache
def settings(**values: Any) -> Settings:
    # In process the public secret must be set. To read settings takes twenty times as long as opening a gate with them.
    return Settings(**{"secret": SECRET, **values})


@pytest.fixture
def make_gate(upstream: Upstream, clock: Clock, store_url: str) -> Iterator[Callable[..., Gateway]]:
    """Return a maker of gates with the given settings, all over one store."""
    made: list[Gateway] = []

    def make(**values: Any) -> Gateway:
        chosen = settings(**values).model_copy(update={"store": store_url})
        gate = Gateway(upstream, chosen, now=clock)
        made.append(gate)
        return gate

    yield make
    for gate in made:
        gate._blacklist.store.close()


@pytest.fixture
def make_api(make_gate: Callable[..., Gateway]) -> Callable[..., Api]:
    """Return a maker of clients of a gate with the given settings, watched by both checkers of WSGI."""
    return lambda **values: Api(validator(LintMiddleware(make_gate(**values))))


@pytest.fixture
def store_fails(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AbstractContextManager[object]]:
    """Return what makes methods of every SQLite store fail while it is entered."""

    def fail(*_: object, **__: object) -> Any:
        raise StoreUnavailable

    @contextmanager
    def broken(*names: str) -> Iterator[None]:
        with monkeypatch.context() as patched:
            for name in names:
                patched.setattr(SqliteStore, name, fail)
            yield

    return broken


@pytest.fixture
def gate(make_gate: Callable[..., Gateway]) -> Gateway:
    return make_gate()


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api()


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start real Chromium, driven by selenium."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    path = shutil.which("chromedriver")
    if not path:
        pytest.skip("chromedriver is not installed")
    options = selenium.ChromeOptions()
    for flag in (*CHROMIUM_FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    browser = selenium.Chrome(options=options, service=selenium.ChromeService(path))
    browser.set_script_timeout(15)
    yield browser
    browser.quit()
