"""A WebSocket's two ends, as bytes: a script for the recorder, a client's handshake and frames (RFC 6455)."""

from __future__ import annotations

import base64
import hashlib
import struct

from recorder import Talk, request

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def handshake(target: str = "/ws", *fields: tuple[str, str]) -> bytes:
    """Return a client's request to switch to WebSocket."""
    usual = [("Connection", "keep-alive, Upgrade"), ("Upgrade", "websocket")]
    return request(f"GET {target}", *usual, ("Sec-WebSocket-Key", KEY), ("Sec-WebSocket-Version", "13"), *fields)


def switched(key: str = KEY) -> bytes:
    """Return a server's answer that switches."""
    accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept.encode() + b"\r\n\r\n"
    )


def frame(content: bytes, code: int = 1, mask: bytes = b"") -> bytes:
    """Return a whole frame, masked as a client's with a mask of four bytes."""
    length = len(content)
    bit = 0x80 if mask else 0
    if length < 126:
        head = bytes([0x80 | code, bit | length])
    elif length < 65536:
        head = bytes([0x80 | code, bit | 126]) + struct.pack(">H", length)
    else:
        head = bytes([0x80 | code, bit | 127]) + struct.pack(">Q", length)
    if mask:
        content = bytes(byte ^ mask[place % 4] for place, byte in enumerate(content))
    return head + mask + content


def echo(talk: Talk) -> None:
    """Switch, and send back whatever bytes come."""
    talk.send(switched())
    talk.send(talk._buffer)
    while data := talk.sock.recv(65536):
        talk.send(data)
    talk.close()
