"""One gateway for many tests, which set what its upstream answers."""

from collections.abc import Iterator

import pytest
from recorder import Recorder, ok
from running import Running


@pytest.fixture(scope="session")
def hop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Recorder, Running]]:
    """Run a gateway of one worker and two threads, which looks after its streams ten times a second."""
    flags = ("--workers", "1", "--threads", "2", "--stream-check", "0.1")
    with Recorder() as upstream, Running(tmp_path_factory.mktemp("hop"), upstream.url, *flags) as gateway:
        yield upstream, gateway


@pytest.fixture
def upstream(hop: tuple[Recorder, Running]) -> Recorder:
    hop[0].answer = ok()
    return hop[0]


@pytest.fixture
def gateway(hop: tuple[Recorder, Running], upstream: Recorder) -> Running:
    """Return the gateway; its upstream answers anew as at first, also where a test names the gateway alone."""
    return hop[1]
