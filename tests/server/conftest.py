"""Servers in processes of their own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from bundled import Bundled


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Bundled]]:
    """Return a starter of servers, which serve with every worker, and end with the test."""
    with ExitStack() as stack:

        def enter(**options: Any) -> Bundled:
            server = stack.enter_context(Bundled(tmp_path, **options))
            assert server.serves_with(options.get("workers", 1)), server.log
            return server

        yield enter
