"""Framings make the frames that the `websockets` library would."""

from __future__ import annotations

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame
from websockets.frames import Opcode
from websockets.protocol import CLIENT
from websockets.protocol import Protocol

from falcon_channels.transports.websocket_framing import binary_frame
from falcon_channels.transports.websocket_framing import DEFLATE
from falcon_channels.transports.websocket_framing import DEFLATE_WINDOW_BITS
from falcon_channels.transports.websocket_framing import text_frame
from falcon_channels.transports.websocket_framing import UNCOMPRESSED

LENGTHS = [0, 1, 125, 126, 127, 65535, 65536, 100_000]


@pytest.mark.parametrize('length', LENGTHS)
def test_frames_are_those_of_the_library(length: int) -> None:
    """Every form of the length field is written as the library writes it."""
    payload = b'x' * length

    assert Frame(Opcode.TEXT, payload).serialize(mask=False) == text_frame(payload)
    assert Frame(Opcode.BINARY, payload).serialize(mask=False) == binary_frame(payload)


def test_several_payloads_make_one_blob() -> None:
    """A blob holds the frames of its payloads, and joined blobs those of all."""
    blob = UNCOMPRESSED.frame([b'a', b'bc'], binary=False)

    assert b'\x81\x01a\x81\x02bc' == blob
    assert blob + b'\x82\x01d' == UNCOMPRESSED.join(
        [blob, UNCOMPRESSED.frame([b'd'], binary=True)]
    )


def test_deflated_messages_are_read_by_a_client() -> None:
    """A client that has negotiated compression reads long and short messages."""
    long = b'{"n": 1}' * 1000
    client = Protocol(CLIENT, max_size=None)
    client.extensions = [
        PerMessageDeflate(True, True, DEFLATE_WINDOW_BITS, DEFLATE_WINDOW_BITS)
    ]

    blob = DEFLATE.frame([long, b'short', long], binary=False)
    client.receive_data(blob)

    assert len(blob) < 500
    assert [long, b'short', long] == [frame.data for frame in client.events_received()]


def test_incompressible_message_is_sent_uncompressed() -> None:
    """A message that deflate would make longer is not compressed."""
    noise = bytes((i * 7919 + (i >> 3) * 104729) * 31 % 251 for i in range(1100))

    assert DEFLATE.frame([noise], binary=True)[0] in (0x82, 0xC2)
    assert len(DEFLATE.frame([noise], binary=True)) <= len(binary_frame(noise))
