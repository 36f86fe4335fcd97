"""What an app may be, and what it may return."""

from collections.abc import Iterator
from typing import Any

from gateway.http.wsgi import call_of, close_body


class Instances:
    """An app whose instances answer, though they can be called, too."""

    def __init__(self, environ: dict[str, Any], start_response: Any) -> None:
        start_response("200 OK", [])

    def __iter__(self) -> Iterator[bytes]:
        yield b"an instance"

    def __call__(self, *_: Any) -> list[bytes]:
        raise AssertionError("the class is the app")


class Body:
    """What a generator is not, though it takes what is sent."""

    closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"x"])

    def send(self, _: bytes) -> None:
        """Do nothing."""

    def close(self) -> None:
        self.closed += 1


def test_a_class_is_an_app_whatever_its_instances_are() -> None:
    assert list(call_of(Instances)({}, lambda *_: None)) == [b"an instance"]


def test_what_is_no_generator_is_closed_after_its_end_too() -> None:
    body = Body()
    close_body(body, has_ended=True)
    assert body.closed == 1


def test_a_generator_that_has_not_ended_is_closed() -> None:
    told: list[str] = []

    def parts() -> Iterator[bytes]:
        try:
            yield b"x"
        finally:
            told.append("closed")

    body = parts()
    next(body)
    close_body(body)
    assert told == ["closed"]
