"""Large messages between nodes: `split` cuts them, and `Assembler` joins the pieces."""

from __future__ import annotations

import random

import pytest

from falcon_channels.cluster.chunks import Assembler
from falcon_channels.cluster.chunks import MAX_MESSAGE_BYTES
from falcon_channels.cluster.chunks import PIECE_BYTES
from falcon_channels.cluster.chunks import split
from falcon_channels.cluster.messages import NodeMessage


def body_of(pieces: int, seed: int = 0) -> bytes:
    """Return a body that needs a number of pieces; the last one is half full."""
    return random.Random(seed).randbytes(pieces * PIECE_BYTES - PIECE_BYTES // 2)


def pieces_of(body: bytes) -> list[NodeMessage]:
    return list(split('node', 'kind', body))


@pytest.mark.parametrize('size_bytes', [0, 1, PIECE_BYTES])
def test_body_of_at_most_one_piece_is_one_message(size_bytes: int) -> None:
    """A body that fits into one piece is sent unchanged, and received at once."""
    body = bytes(size_bytes)
    pieces = pieces_of(body)
    assert [NodeMessage('node', 'kind', body)] == pieces
    assert body == Assembler().add(pieces[0])


@pytest.mark.parametrize(
    ('size_bytes', 'total'),
    [
        (PIECE_BYTES + 1, 2),
        (2 * PIECE_BYTES, 2),
        (2 * PIECE_BYTES + 1, 3),
        (MAX_MESSAGE_BYTES, -(-MAX_MESSAGE_BYTES // PIECE_BYTES)),
    ],
)
def test_larger_body_is_split_into_numbered_pieces(size_bytes: int, total: int) -> None:
    """Each piece has node, kind, number and total, and at most `PIECE_BYTES`."""
    body = random.Random(1).randbytes(size_bytes)
    pieces = pieces_of(body)
    assert list(range(total)) == [piece.number for piece in pieces]
    assert {('node', 'kind', total)} == {
        (piece.node, piece.kind, piece.total) for piece in pieces
    }
    assert PIECE_BYTES == max(len(piece.body) for piece in pieces)
    assert body == b''.join(piece.body for piece in pieces)
    assert 1 == len({piece.message for piece in pieces})


def test_each_message_has_its_own_id() -> None:
    """Pieces of equal bodies belong to different messages."""
    body = body_of(2)
    assert pieces_of(body)[0].message != pieces_of(body)[0].message


@pytest.mark.parametrize('seed', range(5))
def test_assembler_with_pieces_in_any_order_returns_the_body_once(seed: int) -> None:
    """The last piece to arrive returns the body, whichever number it has."""
    body = body_of(20)
    pieces = pieces_of(body)
    random.Random(seed).shuffle(pieces)
    assembler = Assembler()
    results = [assembler.add(piece) for piece in pieces]
    assert [None] * 19 + [body] == results


def test_assembler_with_interleaved_messages_keeps_them_apart() -> None:
    """Pieces of several messages can arrive alternately."""
    bodies = [body_of(5, seed) for seed in range(4)]
    assembler = Assembler()
    results = [
        assembler.add(piece)
        for group in zip(*map(pieces_of, bodies), strict=True)
        for piece in group
    ]
    assert [None] * 16 + bodies == results


def test_assembler_with_repeated_pieces_returns_the_body_once() -> None:
    """A piece that arrives twice counts once, and does not complete a message."""
    body = body_of(3)
    first, second, third = pieces_of(body)
    assembler = Assembler()
    assert [None] * 4 == [assembler.add(p) for p in (first, first, second, second)]
    assert body == assembler.add(third)


def test_assembler_with_many_repeated_pieces_counts_their_bytes_once() -> None:
    """Repeated pieces do not displace another incomplete message."""
    other, repeated = pieces_of(body_of(2)), pieces_of(body_of(2, 1))
    assembler = Assembler()
    assert None is assembler.add(other[0])
    for _ in range(2 * MAX_MESSAGE_BYTES // PIECE_BYTES + 1):
        assert None is assembler.add(repeated[0])
    assert body_of(2) == assembler.add(other[1])


def test_assembler_with_a_lost_piece_returns_nothing_and_accepts_others() -> None:
    """A message with a lost piece stays incomplete; other messages are received."""
    lost, complete = pieces_of(body_of(3)), pieces_of(body_of(3, 1))
    assembler = Assembler()
    assert [None, None] == [assembler.add(lost[0]), assembler.add(lost[2])]
    assert body_of(3, 1) == [assembler.add(piece) for piece in complete][-1]


@pytest.mark.parametrize(
    ('number', 'total'),
    [
        (-1, 2),
        (2, 2),
        (0, 0),
        (0, -1),
        (0, MAX_MESSAGE_BYTES // PIECE_BYTES + 2),
        (10**9, 10**9 + 1),
    ],
)
def test_assembler_with_an_invalid_number_or_total_ignores_the_piece(
    number: int, total: int
) -> None:
    """A piece outside its message, or of a too large message, is not buffered."""
    assembler = Assembler()
    assert None is assembler.add(NodeMessage('', 'kind', b'x', 'm', number, total))
    first, second = (NodeMessage('', 'kind', b'y', 'm', n, 2) for n in (0, 1))
    assert [None, b'yy'] == [assembler.add(first), assembler.add(second)]


def test_assembler_with_too_many_incomplete_messages_drops_the_oldest() -> None:
    """At most 256 messages are incomplete. The oldest is dropped, the others are not.

    A dropped message cannot be completed any more, because its first piece is missing.
    """
    messages = [pieces_of(body_of(2, seed)) for seed in range(257)]
    assembler = Assembler()
    for first, _ in messages:
        assert None is assembler.add(first)
    assert [body_of(2, seed) for seed in range(1, 257)] == [
        assembler.add(second) for _, second in messages[1:]
    ]
    assert None is assembler.add(messages[0][1])


def test_assembler_with_too_many_incomplete_bytes_drops_the_oldest() -> None:
    """Incomplete messages have at most 8 MiB in total."""
    bodies = [random.Random(seed).randbytes(MAX_MESSAGE_BYTES) for seed in range(3)]
    messages = [pieces_of(body) for body in bodies]
    assembler = Assembler()
    for pieces in messages:
        for piece in pieces[:-1]:
            assert None is assembler.add(piece)
    assert [None, *bodies[1:]] == [assembler.add(pieces[-1]) for pieces in messages]


def test_assembler_after_many_complete_messages_has_room_for_another() -> None:
    """The bytes of a complete message no longer count towards the limit."""
    body = random.Random(0).randbytes(MAX_MESSAGE_BYTES)
    other = pieces_of(body_of(2))
    assembler = Assembler()
    assert None is assembler.add(other[0])
    for _ in range(4):
        assert body == [assembler.add(piece) for piece in pieces_of(body)][-1]
    assert body_of(2) == assembler.add(other[1])
