"""Pings by the clock, and messages from frames: pure parts of the WSGI side."""

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


def test_silence_leads_to_a_ping_and_then_to_death() -> None:
    """The interval passes, then the timeout, each measured from its beginning."""
    keepalive = PingSchedule(20, 5, now=100)
    assert 20 == keepalive.wait_s(100)
    assert Due.NOTHING is keepalive.due(119)
    assert Due.PING is keepalive.due(120)
    assert 5 == keepalive.wait_s(120)
    assert Due.NOTHING is keepalive.due(124)
    assert Due.DEAD is keepalive.due(125)
    assert 0 == keepalive.wait_s(130)


def test_any_byte_is_a_sign_of_life() -> None:
    """What is heard between ping and timeout starts the interval anew."""
    keepalive = PingSchedule(20, 5, now=0)
    assert Due.PING is keepalive.due(20)
    keepalive.heard(24)
    assert Due.NOTHING is keepalive.due(40)
    assert 4 == keepalive.wait_s(40)
    assert Due.PING is keepalive.due(44)


def test_no_interval_means_no_pings() -> None:
    """None switches pings off."""
    keepalive = PingSchedule(None, 5, now=0)
    assert Due.NOTHING is keepalive.due(1e9)
    assert float('inf') == keepalive.wait_s(0)


def frames(opcode: Opcode, pieces: list[bytes]) -> list[Frame]:
    """Return a message as frames, with a ping after each."""
    result = []
    for number, piece in enumerate(pieces):
        kind = Opcode.CONT if number else opcode
        result.append(Frame(kind, piece, number == len(pieces) - 1))
        result.append(Frame(Opcode.PING, b'between'))
    return result


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=8))
def test_binary_fragments_join(pieces: list[bytes]) -> None:
    """Whatever the fragments, the message is their sum."""
    assembler = MessageAssembler(8)
    for _ in range(2):
        messages = [assembler.add(frame) for frame in frames(Opcode.BINARY, pieces)]
        assert [b''.join(pieces)] == [m for m in messages if m is not None]


@given(st.text(max_size=30), st.lists(st.integers(0, 120), max_size=7))
def test_text_may_be_cut_within_a_character(text: str, cuts: list[int]) -> None:
    """Fragments of a text need not be UTF-8 each."""
    data = text.encode()
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(places)]
    assembler = MessageAssembler(8)
    messages = [assembler.add(frame) for frame in frames(Opcode.TEXT, pieces)]
    assert [text] == [m for m in messages if m is not None]


def test_bad_text_fails_at_the_first_bad_fragment() -> None:
    """What cannot become UTF-8 is not waited for to its end."""
    assembler = MessageAssembler(8)
    assert assembler.add(Frame(Opcode.TEXT, b'\xce', fin=False)) is None
    with pytest.raises(UnicodeDecodeError):
        assembler.add(Frame(Opcode.CONT, b'\xce', fin=False))


def test_the_number_of_fragments_is_bounded() -> None:
    """One frame more than allowed fails, also an empty one."""
    assembler = MessageAssembler(2)
    assert assembler.add(Frame(Opcode.BINARY, b'', fin=False)) is None
    assert assembler.add(Frame(Opcode.CONT, b'', fin=False)) is None
    with pytest.raises(TooManyFragmentsError, match='more than 2 fragments'):
        assembler.add(Frame(Opcode.CONT, b'', fin=True))
