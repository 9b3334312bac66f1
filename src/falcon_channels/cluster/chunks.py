"""Large messages between nodes, sent in pieces that every broker can carry."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
import secrets

from falcon_channels.cluster.messages import NodeMessage

#: Bytes of one piece. PostgreSQL carries at most 8000 bytes in one notification.
PIECE_BYTES = 3072
#: Largest message that is put together, in bytes.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
#: How many messages may be incomplete at the same time, over all senders.
_MAX_INCOMPLETE = 256
#: How many bytes of incomplete messages are buffered, over all senders.
_MAX_INCOMPLETE_BYTES = 8 * 1024 * 1024


def split(node: str, kind: str, body: bytes) -> Iterator[NodeMessage]:
    """Yield the messages that carry a body: one, or several pieces.

    Args:
        node: Id of the receiving node, or ``''`` for all.
        kind: Name of the handler that receives the body.
        body: At most `MAX_MESSAGE_BYTES`.
    """
    if len(body) <= PIECE_BYTES:
        yield NodeMessage(node, kind, body)
        return
    message = secrets.token_urlsafe(9)
    total = -(-len(body) // PIECE_BYTES)
    for number in range(total):
        piece = body[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]
        yield NodeMessage(node, kind, piece, message, number, total)


class Assembler:
    """Puts the pieces of messages together.

    Pieces can be lost with the link to the broker. The number of incomplete messages
    and their bytes are therefore bounded: the oldest message is dropped first.
    """

    def __init__(self) -> None:
        self._incomplete: OrderedDict[str, dict[int, bytes]] = OrderedDict()
        self._size_bytes = 0

    def add(self, piece: NodeMessage) -> bytes | None:
        """Add a piece; return the body that it completes, or ``None``."""
        if not piece.message:
            return piece.body
        most = MAX_MESSAGE_BYTES // PIECE_BYTES + 1
        if not 0 <= piece.number < piece.total <= most:
            return None
        pieces = self._incomplete.setdefault(piece.message, {})
        if piece.number not in pieces:
            pieces[piece.number] = piece.body
            self._size_bytes += len(piece.body)
        if len(pieces) == piece.total:
            self._remove(piece.message)
            return b''.join(pieces[number] for number in sorted(pieces))
        while (
            len(self._incomplete) > _MAX_INCOMPLETE
            or self._size_bytes > _MAX_INCOMPLETE_BYTES
        ):
            self._remove(next(iter(self._incomplete)))
        return None

    def _remove(self, message: str) -> None:
        pieces = self._incomplete.pop(message)
        self._size_bytes -= sum(map(len, pieces.values()))
