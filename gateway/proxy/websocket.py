"""Where the frames of a WebSocket end, and the frame that ends one (RFC 6455 section 5)."""

from __future__ import annotations

import struct

POLICY_VIOLATION = 1008
FRAMES_AT_ONCE = 4096  # that are followed in one piece: more of them would have hardly any content


class Frames:
    """Follows what an upstream sends, to know where another frame may be put in, at a bounded cost."""

    def __init__(self) -> None:
        self._head = b""  # of a frame, as far as it has come
        self._remaining = 0  # bytes of the frame's content still to come
        self._is_lost = False

    @property
    def at_boundary(self) -> bool:
        """Whether all frames so far are known to be whole."""
        return not (self._head or self._remaining or self._is_lost)

    def feed(self, data: bytes) -> None:
        """Follow the next bytes that pass."""
        at, end, heads = 0, len(data), 0
        while at < end and not self._is_lost:
            if self._remaining:
                used = min(self._remaining, end - at)
                self._remaining -= used
            else:
                used = self._feed_head(data[at : at + 14])
                heads += 1
                self._is_lost = heads > FRAMES_AT_ONCE
            at += used

    def _feed_head(self, data: bytes) -> int:
        """Take what belongs to a frame's head, of at most 14 bytes, and return how many bytes that was."""
        known = len(self._head)
        head = self._head + data
        code = head[1] & 0x7F if len(head) > 1 else 0
        start = 2 + (8 if code == 127 else 2 if code == 126 else 0)
        size = start + (4 if len(head) > 1 and head[1] & 0x80 else 0)
        if len(head) < size:
            self._head = head
            return len(data)
        self._remaining = int.from_bytes(head[2:start], "big") if code > 125 else code
        self._head = b""
        return size - known


def close_frame(reason: str) -> bytes:
    """Return a server's close frame for a breach of policy; of the reason 123 bytes have room."""
    content = struct.pack(">H", POLICY_VIOLATION) + reason.encode()[:123]
    return bytes([0x88, len(content)]) + content
