"""An SSF transmitter for tests that is polled by RFC 8936: real HTTP on loopback, every request kept.

with Transmitter({"jti": "SET"}) as transmitter:
    transmitter.url
    transmitter.sets       # what is not acknowledged yet, by jti
    transmitter.requests   # what it was asked, in order
    transmitter.faults     # what was reported in setErrs
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Transmitter:
    """See the module. `most` is how many events one answer has; `status` another status to answer with.

    `keeps` has it take no notice of what is acknowledged, `is_endless` always say that there are more. `encode`
    changes the bytes of an answer; `asked` has the target and fields of each request.
    """

    def __init__(self, sets: Mapping[str, object], *, authorization: str = "", most: int = 100) -> None:
        self.sets = dict(sets)
        self.requests: list[dict[str, Any]] = []
        self.faults: dict[str, Any] = {}
        self.asked: list[tuple[str, Any]] = []
        self.status = 200
        self.keeps = self.is_endless = False
        self.encode: Callable[[bytes], bytes] = bytes
        self._authorization, self._most = authorization, most
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_port}/poll?stream=1"

    def __enter__(self) -> Transmitter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        transmitter = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                is_known = self.headers.get("Authorization", "") == transmitter._authorization
                status, members = transmitter._answer(json.loads(body)) if is_known else (401, {})
                text = transmitter.encode(json.dumps(members).encode())
                transmitter.asked.append((self.path, self.headers))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _answer(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.requests.append(asked)
        if self.status != 200:
            return self.status, {}
        self.faults |= asked.get("setErrs", {})
        for jti in () if self.keeps else (*asked.get("ack", []), *asked.get("setErrs", {})):
            self.sets.pop(jti, None)
        told = dict(list(self.sets.items())[: min(self._most, asked.get("maxEvents", self._most))])
        return 200, {"sets": told or None, "moreAvailable": self.is_endless or len(told) < len(self.sets)}
