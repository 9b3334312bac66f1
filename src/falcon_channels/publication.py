"""Publications and positions: the values that a channel's log is made of."""

from __future__ import annotations

from typing import Any
from typing import Literal
from typing import NamedTuple

import msgspec

# NOTE: everything here is immutable or treated so. One Publication object is
#   shared by every subscriber of a process, and its encodings are cached beside it.


class Position(NamedTuple):
    """A place in the log of one channel.

    Offsets count 1, 2, 3 ... without gaps within one epoch; offset 0 is the place
    before the first publication. Positions compare only within one epoch: another
    epoch is another log. A channel without history has the position ``(0, '')``.
    """

    offset: int
    epoch: str


#: The position of a channel that keeps no log.
NO_POSITION = Position(0, '')


class ClientInfo(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Who a connection is, as other clients may see it.

    Attributes:
        user: Id of the user, ``''`` for somebody anonymous.
        client: Id of the connection, given out by the server.
        conn_info: Public facts about the connection, JSON as bytes, or ``None``.
        chan_info: Public facts about the subscription, JSON as bytes, or ``None``.
    """

    user: str
    client: str
    conn_info: bytes | None = None
    chan_info: bytes | None = None


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """One item in a channel.

    Attributes:
        data: The payload: JSON text in UTF-8, or any bytes where `binary` is true.
        offset: Place in the channel's log, 1 for the first; 0 without history.
        binary: Whether `data` is not JSON. Such a publication cannot be sent to a
            connection that speaks JSON.
        time_ms: When the broker took it, in milliseconds of Unix time; 0: unknown.
        tags: Small labels beside the payload.
        info: The client that published it; ``None`` where the application did.
    """

    data: bytes
    offset: int = 0
    binary: bool = False
    time_ms: int = 0
    tags: dict[str, str] | None = None
    info: ClientInfo | None = None

    def value(self) -> Any:
        """Return the payload as Python values; `data` itself where it is binary."""
        if self.binary:
            return self.data
        return msgspec.json.decode(self.data)


def approximate_bytes(publication: Publication) -> int:
    """Return about how many bytes a publication takes on its way to a client."""
    size_bytes = len(publication.data) + 80
    info = publication.info
    if info is not None:
        size_bytes += len(info.user) + len(info.client) + 60
        size_bytes += len(info.conn_info or b'') + len(info.chan_info or b'')
    if publication.tags:
        for name, value in publication.tags.items():
            size_bytes += len(name) + len(value) + 6
    return size_bytes


class Signal(msgspec.Struct, frozen=True):
    """Something that subscribers are told and that no log keeps.

    Attributes:
        kind: ``'join'`` or ``'leave'``.
        info: Who came or went.
    """

    kind: Literal['join', 'leave']
    info: ClientInfo


class PresenceStats(NamedTuple):
    """How many are in a channel."""

    num_clients: int
    num_users: int


class HistoryPage(NamedTuple):
    """What a broker read from the log of one channel.

    Attributes:
        publications: In offset order, or in the opposite order if asked.
        position: The top of the log at the moment of reading; a client that
            subscribes from here misses nothing.
    """

    publications: list[Publication]
    position: Position

    def to_media(self) -> dict[str, Any]:
        """Return values for ``resp.media``.

        The shape is ``{"publications": [{"data": ..., "offset": 1}], "offset": 1,
        "epoch": "..."}``; a publication also has ``tags`` and ``info`` where it has
        them. Binary payloads cannot be shown as JSON and raise `ValueError`.
        """
        return {
            'publications': [_media(item) for item in self.publications],
            'offset': self.position.offset,
            'epoch': self.position.epoch,
        }


def _media(publication: Publication) -> dict[str, Any]:
    if publication.binary:
        raise ValueError(
            f'publication {publication.offset} is binary and cannot be shown as JSON; '
            'read publication.data'
        )
    item: dict[str, Any] = {
        'data': publication.value(),
        'offset': publication.offset,
    }
    if publication.time_ms:
        item['time'] = publication.time_ms
    if publication.tags:
        item['tags'] = publication.tags
    if publication.info:
        item['info'] = info_media(publication.info)
    return item


def info_media(info: ClientInfo) -> dict[str, Any]:
    """Return a ClientInfo as JSON-like values, ``{"user": ..., "client": ...}``."""
    media: dict[str, Any] = {'user': info.user, 'client': info.client}
    if info.conn_info is not None:
        media['conn_info'] = msgspec.json.decode(info.conn_info)
    if info.chan_info is not None:
        media['chan_info'] = msgspec.json.decode(info.chan_info)
    return media
