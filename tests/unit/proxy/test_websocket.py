"""Where frames end, whatever pieces they come in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websocket_bytes import frame

from gateway.proxy.websocket import Frames, close_frame

SIZES = [0, 1, 125, 126, 127, 65535, 65536]


@given(st.lists(st.sampled_from(SIZES), min_size=1, max_size=4), st.integers(1, 70_000), st.booleans())
def test_a_boundary_is_where_all_frames_are_whole(sizes: list[int], piece: int, is_masked: bool) -> None:
    frames, data, ends, place = Frames(), b"", {0}, 0
    for size in sizes:
        data += frame(b"x" * size, mask=b"mask" if is_masked and size < 1000 else b"")
        ends.add(len(data))
    while place < len(data):
        frames.feed(data[place : place + piece])
        place = min(place + piece, len(data))
        assert frames.at_boundary == (place in ends)


@pytest.mark.parametrize("reason", ["", "token-blacklisted", "x" * 200])
def test_a_close_frame_has_a_code_and_a_reason_that_fits(reason: str) -> None:
    whole = close_frame(reason)
    assert whole[:1] == b"\x88"
    assert whole[1] == len(whole) - 2 <= 125
    assert whole[2:4] == (1008).to_bytes(2, "big")
    assert whole[4:].decode() == reason[:123]


def test_of_a_flood_of_empty_frames_the_end_is_lost_sight_of() -> None:
    frames = Frames()
    frames.feed(b"\x81\x00" * 4096)
    assert frames.at_boundary
    frames.feed(b"\x81\x00" * 4097)
    assert not frames.at_boundary
