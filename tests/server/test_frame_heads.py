"""The rules for the head of a client's frame."""

from __future__ import annotations

import pytest

from falcon_channels.server.frame_heads import is_illegal


@pytest.mark.parametrize('head', [0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A])
def test_known_opcode_with_a_short_payload_is_legal(head: int) -> None:
    """Data frames may be fragments; control frames are complete."""
    assert not is_illegal(head, 125, 125, has_extensions=False)


@pytest.mark.parametrize('head', [0x03, 0x87, 0x8B, 0x8F, 0x08, 0x09, 0x0A])
def test_unknown_opcode_or_fragmented_control_frame_is_illegal(head: int) -> None:
    """Opcodes 3 to 7 and 11 to 15 are reserved; control frames have no fragments."""
    assert is_illegal(head, 0, 1000, has_extensions=True)


@pytest.mark.parametrize(
    ('head', 'length'), [(0x81, -1), (0x81, 1001), (0x89, 126)], ids=str
)
def test_length_that_is_not_allowed_is_illegal(head: int, length: int) -> None:
    """Frames have a mask and at most the limit; control frames at most 125 bytes."""
    assert is_illegal(head, length, 1000, has_extensions=False)


@pytest.mark.parametrize('reserved', range(1, 8))
def test_reserved_bits_are_legal_only_for_an_extension(reserved: int) -> None:
    """Compression uses the first reserved bit, and nothing uses the others."""
    head = 0x81 | reserved << 4
    assert is_illegal(head, 5, 1000, has_extensions=False)
    assert (reserved != 4) == is_illegal(head, 5, 1000, has_extensions=True)
