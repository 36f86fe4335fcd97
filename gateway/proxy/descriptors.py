"""A connection that libcurl has, by its descriptor: when the kernel sends, and how it closes."""

from __future__ import annotations

import socket
import struct
import sys
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Final

CAN_HOLD_BACK: Final = sys.platform == "linux"
AT_ONCE: Final = 16_384  # bytes of a body that are held back with its head: while more is sent, an answer may come


def cork(descriptor: int, value: int) -> None:
    """Have the kernel keep the end of what is sent from now on (1), so that there is no answer yet, or send it (0)."""
    _set(descriptor, socket.IPPROTO_TCP, socket.TCP_CORK, value)


def reset_at_close(descriptor: int) -> None:
    """Have the kernel close it with a reset, so that its port is free at once and not after a minute (TIME_WAIT).

    Not where the upstream's system has not confirmed all that was sent: a reset could take that away.
    """
    if ioctl(descriptor, TIOCOUTQ, bytes(4)) == bytes(4):
        _set(descriptor, socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _set(descriptor: int, level: int, option: int, value: int | bytes) -> None:
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
    try:
        connection.setsockopt(level, option, value)
    finally:
        connection.detach()  # it stays libcurl's
