"""One request at a time, for checks."""

from __future__ import annotations

from http.client import HTTPConnection


def ask(port: int, path: str, token: str = "", method: str = "GET") -> tuple[int, bytes]:
    """Return status and body of the answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
