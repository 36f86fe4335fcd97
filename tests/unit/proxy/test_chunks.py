"""Chunks of an answer that libcurl does not read, in whatever pieces they come."""

import pytest

from gateway.proxy.chunks import Chunks
from gateway.proxy.failures import UpstreamFailed


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_chunks_come_as_they_are_cut(size: int) -> None:
    sent = b'3\r\nabc\r\n0A ;x="y"\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n'
    chunks = Chunks()
    assert b"".join(chunks.feed(sent[at : at + size]) for at in range(0, len(sent), size)) == b"abc0123456789"
    assert chunks.ended


@pytest.mark.parametrize(
    "sent", [b"3\r\nabcd\r\n", b"3\nabc", b"g\r\n", b"-1\r\n", b"1" * 20 + b"\r\n", b"1;" + b"x" * 20_000]
)
def test_bad_chunks_are_malformed(sent: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        Chunks().feed(sent)
