"""The ping schedule and the message assembler, which have no I/O."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
import pytest
from websockets.frames import Frame
from websockets.frames import Opcode

from falcon_channels.websocket.fragments import MessageAssembler
from falcon_channels.websocket.fragments import TooManyFragmentsError
from falcon_channels.wsgi.keepalive import Due
from falcon_channels.wsgi.keepalive import PingSchedule


def test_silence_leads_to_a_ping_and_then_to_dead() -> None:
    """First the interval passes, then the timeout."""
    schedule = PingSchedule(20, 5, now=100)
    assert 20 == schedule.wait_s(100)
    assert Due.NOTHING is schedule.due(119)
    assert Due.PING is schedule.due(120)
    schedule.pinged(120)
    assert 5 == schedule.wait_s(120)
    assert Due.NOTHING is schedule.due(124)
    assert Due.DEAD is schedule.due(125)
    assert 0 == schedule.wait_s(130)


def test_bytes_after_a_ping_restart_the_interval() -> None:
    """Any byte between ping and timeout is a sign of life."""
    schedule = PingSchedule(20, 5, now=0)
    assert Due.PING is schedule.due(20)
    schedule.pinged(20)
    schedule.heard(24)
    assert Due.NOTHING is schedule.due(40)
    assert 4 == schedule.wait_s(40)
    assert Due.PING is schedule.due(44)


def test_interval_of_none_switches_pings_off() -> None:
    """None switches pings off."""
    schedule = PingSchedule(None, 5, now=0)
    assert Due.NOTHING is schedule.due(1e9)
    assert float('inf') == schedule.wait_s(0)


def frames(opcode: Opcode, pieces: list[bytes]) -> list[Frame]:
    """Return a message as frames, with a ping after each."""
    result = []
    for number, piece in enumerate(pieces):
        kind = Opcode.CONT if number else opcode
        result.append(Frame(kind, piece, number == len(pieces) - 1))
        result.append(Frame(Opcode.PING, b'between'))
    return result


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=8))
def test_binary_fragments_are_joined(pieces: list[bytes]) -> None:
    """Any fragments give the whole message."""
    assembler = MessageAssembler(8)
    for _ in range(2):
        messages = [assembler.add(frame) for frame in frames(Opcode.BINARY, pieces)]
        assert [b''.join(pieces)] == [m for m in messages if m is not None]


@given(st.text(max_size=30), st.lists(st.integers(0, 120), max_size=7))
def test_text_cut_within_a_character_is_joined(text: str, cuts: list[int]) -> None:
    """A single fragment of a text need not be valid UTF-8."""
    data = text.encode()
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(places)]
    assembler = MessageAssembler(8)
    messages = [assembler.add(frame) for frame in frames(Opcode.TEXT, pieces)]
    assert [text] == [m for m in messages if m is not None]


def test_invalid_utf8_fails_at_the_first_bad_fragment() -> None:
    """The assembler does not wait for the end of the message."""
    assembler = MessageAssembler(8)
    assert assembler.add(Frame(Opcode.TEXT, b'\xce', fin=False)) is None
    with pytest.raises(UnicodeDecodeError):
        assembler.add(Frame(Opcode.CONT, b'\xce', fin=False))


def test_fragment_beyond_the_limit_raises() -> None:
    """One frame more than allowed fails, also an empty one."""
    assembler = MessageAssembler(2)
    assert assembler.add(Frame(Opcode.BINARY, b'', fin=False)) is None
    assert assembler.add(Frame(Opcode.CONT, b'', fin=False)) is None
    with pytest.raises(TooManyFragmentsError, match='more than 2 fragments'):
        assembler.add(Frame(Opcode.CONT, b'', fin=True))
