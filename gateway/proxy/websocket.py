"""Where the frames of a WebSocket end, and the frame that ends one (RFC 6455 section 5)."""

from __future__ import annotations

import struct

POLICY_VIOLATION = 1008
FRAMES_AT_ONCE = 4096  # most frames followed in one piece: if there are more, they have hardly any content


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
        if self._is_lost:
            return
        data, self._head = self._head + data, b""
        at, end, heads = self._remaining, len(data), 0
        while at < end and heads < FRAMES_AT_ONCE:
            heads += 1
            # The usual one is small and not masked, and there may be thousands.
            size = 2 + data[at + 1] if at + 1 < end and data[at + 1] < 126 else _frame_size(data[at : at + 14])
            if not size:
                self._head, size = data[at:], end - at
            at += size
        self._is_lost = at < end
        self._remaining = at - end


def _frame_size(head: bytes) -> int:
    """Return how many bytes a frame has that begins so, its head included; 0 where its head is not whole."""
    code = head[1] & 0x7F if len(head) > 1 else 0
    start = 2 + (8 if code == 127 else 2 if code == 126 else 0)
    size = start + (4 if len(head) > 1 and head[1] & 0x80 else 0)
    if len(head) < size:
        return 0
    return size + (int.from_bytes(head[2:start], "big") if code > 125 else code)


def close_frame(reason: str) -> bytes:
    """Return a server's close frame for a breach of policy; there is room for 123 bytes of the reason."""
    content = struct.pack(">H", POLICY_VIOLATION) + reason.encode()[:123]
    return bytes([0x88, len(content)]) + content
