"""A disk without power: a process is traced, and its writes and syncs are replayed as far as they would have lasted.

What lasts is what was synced, bytes and names alike; of what was not, nothing, everything or any part may.
Sectors are whole here, and a drive that claims to have synced has.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

CALLS = "openat,pwrite64,write,fsync,fdatasync,ftruncate,unlink,link"
_LINE = re.compile(r"(\w+)\((.*)\)\s+= (\d+)(?:<.*>)?$")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FILE = re.compile(r"\d+<((?:\\x[0-9a-f]{2})*)>")
_NUMBER = re.compile(r", (\d+)(?=,|$)")

Bytes = bytearray
Change = Callable[[Bytes], None]


@cache
def can_trace() -> bool:
    """Return whether there is strace, and may be used."""
    strace = shutil.which("strace")
    return bool(strace) and subprocess.run([strace, "-o", "/dev/null", "true"], check=False).returncode == 0


@dataclass
class File:
    """The bytes that are synced, and the changes since."""

    synced: Bytes = field(default_factory=Bytes)
    pending: list[Change] = field(default_factory=list)

    def sync(self) -> None:
        self.synced = self.after(lambda _: True)
        self.pending = []

    def after(self, lasts: Callable[[Change], bool]) -> Bytes:
        content = Bytes(self.synced)
        for change in filter(lasts, self.pending):
            change(content)
        return content


class Disk:
    """The files below a directory, by name: as programs see them, and as synced."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self._names: dict[str, File] = {}
        self._synced: dict[str, File] = {}
        self.said = b""  # what the process has written to its standard output

    def replay(self, trace: Path) -> Iterator[str]:
        """Do what the process did, call by call; yield each call's name after it."""
        for line in trace.read_text().splitlines():
            parts = _LINE.match(line)
            if parts:
                self._do(parts[1], parts[2])
                yield parts[1]

    def _do(self, call: str, args: str) -> None:
        texts = [_bytes(text) for text in _TEXT.findall(args)]
        name = next((_bytes(found).decode() for found in _FILE.findall(args)), "")
        numbers = [int(number) for number in _NUMBER.findall(args)]
        if call == "write" and args.startswith("1<"):
            self.said += texts[0]
        elif call == "openat" and "O_CREAT" in args and texts[0].decode().startswith(self._directory):
            self._names.setdefault(texts[0].decode(), File())
        elif call == "pwrite64" and name in self._names:
            self._names[name].pending.append(_write(texts[0], numbers[-1]))
        elif call == "ftruncate" and name in self._names:
            self._names[name].pending.append(_cut(numbers[0]))
        elif call in ("fsync", "fdatasync"):
            if name == self._directory:
                self._synced = dict(self._names)
            elif name in self._names:
                self._names[name].sync()
        elif call == "unlink":
            self._names.pop(texts[0].decode(), None)
        elif call == "link":
            self._names[texts[1].decode()] = self._names[texts[0].decode()]

    def images(self, chance: random.Random) -> Iterator[dict[str, bytes]]:
        """Yield what may be on the disk if the power fails now: each file's name and content."""
        for names in (self._synced, self._names):
            for lasts in (lambda _: False, lambda _: True, lambda _: chance.random() < 0.5):
                yield {
                    Path(name).name: bytes(file.after(lasts))
                    for name, file in names.items()
                    if not name.endswith("-shm")  # made anew after each start
                }


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _write(data: bytes, offset: int) -> Change:
    def change(content: Bytes) -> None:
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data

    return change


def _cut(size: int) -> Change:
    def change(content: Bytes) -> None:
        del content[size:]
        content.extend(bytes(size - len(content)))

    return change
