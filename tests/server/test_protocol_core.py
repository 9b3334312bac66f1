"""The protocol core of a connection, without sockets."""

from __future__ import annotations

import pytest

from falcon_channels.server.compression import deflate_factory
from falcon_channels.server.protocol_core import CoreEnd
from falcon_channels.server.protocol_core import ProtocolCore
from server.running import BINARY
from server.running import CLOSE
from server.running import CONT
from server.running import frame
from server.running import PING
from server.running import TEXT


@pytest.fixture
def core() -> ProtocolCore:
    return ProtocolCore(max_size=1000, max_fragments=3)


def test_core_after_a_ping_answers_and_is_not_needed(core: ProtocolCore) -> None:
    """A control frame leaves nothing in memory."""
    assert core.receive(frame(PING, b'a')) is None
    assert b'\x8a\x01a' == core.take_output()
    assert not core.needed
    assert not core.ended


def test_core_with_a_fragment_is_needed_until_the_message_is_complete(
    core: ProtocolCore,
) -> None:
    """An incomplete message keeps the core; a complete one does not."""
    assert core.receive(frame(TEXT, b'Gr\xc3', fin=False)) is None
    assert core.incomplete
    assert core.needed
    assert 'Grü' == core.receive(frame(CONT, b'\xbc'))
    assert not core.incomplete
    assert not core.needed


def test_core_with_an_extension_is_always_needed() -> None:
    """The extension belongs to the core, so the connection must keep it."""
    extension = deflate_factory().process_request_params(
        [('client_max_window_bits', None)], []
    )[1]
    core = ProtocolCore(1000, 3, [extension])
    assert core.has_extensions
    assert core.receive(frame(PING, b'')) is None
    assert core.needed


@pytest.mark.parametrize(
    ('frames', 'code'),
    [
        ([frame(TEXT, b'\xff')], 1007),
        ([frame(BINARY, b'', fin=False), *[frame(CONT, b'', fin=False)] * 3], 1009),
        ([frame(CONT, b'')], 1002),
        ([frame(BINARY, bytes(1001))], 1009),
    ],
    ids=['encoding', 'fragments', 'order', 'size'],
)
def test_core_with_an_illegal_frame_has_failed_with_the_code(
    core: ProtocolCore, frames: list[bytes], code: int
) -> None:
    """Each violation ends the connection with its own close code."""
    for data in frames:
        assert core.receive(data) is None
    assert core.ended
    assert (code, True) == (core.end.code, core.end.failed)
    assert code.to_bytes(2, 'big') == core.take_output()[2:4]


def test_close_frame_within_a_fragmented_message_is_answered(
    core: ProtocolCore,
) -> None:
    """A control frame may stand between fragments (RFC 6455 section 5.4)."""
    core.receive(frame(TEXT, b'a', fin=False))
    core.receive(frame(CLOSE, b'\x03\xe8bye'))
    assert core.ended
    assert CoreEnd(1000, 'bye', failed=False) == core.end
    assert b'\x88\x05\x03\xe8bye' == core.take_output()


def test_close_reason_that_is_too_long_is_cut_between_characters(
    core: ProtocolCore,
) -> None:
    """A reason takes at most 123 bytes and stays valid UTF-8."""
    core.close(1000, 'ü' * 62)
    assert b'\x88\x7c\x03\xe8' + b'\xc3\xbc' * 61 == core.take_output()
    assert not core.ended
    core.receive(frame(CLOSE, b'\x03\xe8'))
    assert core.ended
