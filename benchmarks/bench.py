"""What a row of the table is, what it is given, and the upstream behind all of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import LOAD, TESTED, Server, free_port
from benchmarks.tokens import ISSUER, SECRET, Tokens, write_certificate

HERE = Path(__file__).parent
PEERS = HERE / "peers"
PEERS_BIN = HERE / ".venv" / "bin"

SMALL = json.dumps({"id": 249504, "title": "Never Gonna Give You Up", "year": 1987, "country": "UK"}).encode()
MEDIUM = json.dumps([json.loads(SMALL)] * 100).encode()  # some 10 KiB
LARGE = bytes(range(256)) * 4096
BODIES = {"/small": SMALL, "/medium": MEDIUM, "/large": LARGE}


@dataclass(frozen=True)
class Bench:
    """What every row is given: a directory for its files, the upstream's ports (http and https), the tokens."""

    work: Path
    upstream: int
    upstream_tls: int
    tokens: Tokens = field(default_factory=Tokens)
    servers: list[Server] = field(default_factory=list)

    def config(self, template: str, **values: object) -> str:
        """Return the path of a template under `peers/` with its `{{names}}` filled in."""
        text = (PEERS / template).read_text()
        values = {"work": self.work, "upstream": self.upstream, "secret": SECRET, "issuer": ISSUER, **values}
        for name, value in values.items():
            text = text.replace("{{" + name + "}}", str(value))
        path = self.work / template
        path.write_text(text)
        return str(path)

    def server(
        self, name: str, command: list[str], port: int | Path, env: Mapping[str, str] | None = None, core: int = TESTED
    ) -> Server:
        """Start a server: on the tested core, unless told otherwise."""
        server = Server(name, command, work=self.work, port=port, core=core, env=env or {})
        self.servers.append(server)
        return server


@dataclass
class Running:
    """A row's servers. Requests go to `port`; the CPU of `tested` counts, that of `beside` has its own column.

    `asked` is how many requests there were: each load goes on with the tokens where the one before it ended.
    """

    port: int
    tested: list[Server]
    beside: list[Server] = field(default_factory=list)
    asked: int = 0


@dataclass(frozen=True)
class Row:
    """One line of the table. `path` replaces the upstream's paths where a row does not proxy; `warm_up` is seconds.

    `tokens` are those it is asked with in place of the HS256 ones; `cells` names the only cells it is measured in.
    """

    name: str
    title: str
    start: Callable[[Bench], Running]
    verifies: bool = True
    blacklists: bool = True
    path: str | None = None
    programs: tuple[str, ...] = ()
    large: bool = True  # measured with bodies of 1 MiB, too
    tokens: str = "HS256"
    cells: tuple[str, ...] = ()
    warm_up: int = 1


@contextmanager
def upstream() -> Iterator[Bench]:
    """Start the upstream on the load generator's core; end it and all servers of its bench with the block."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        bench = Bench(Path(directory), free_port(), free_port())
        bench.work.chmod(0o755)  # nginx, started by root, reads as nobody
        (bench.work / "large").write_bytes(LARGE)
        (bench.work / "medium").write_bytes(MEDIUM)
        write_certificate(bench.work)
        config = bench.config("upstream.conf", small=SMALL.decode(), tls=bench.upstream_tls)
        try:
            bench.server("upstream", ["nginx", "-c", config], bench.upstream, core=LOAD)
            yield bench
        finally:
            for server in reversed(bench.servers):
                server.stop()
