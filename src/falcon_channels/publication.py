"""Publications and positions, the values in the log of a channel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from typing import Final
from typing import Literal
from typing import NamedTuple

import msgspec

from falcon_channels.json_decoding import decode_json

# NOTE: all subscribers of a process share one Publication object, and its encodings
#   are cached. Nothing here may therefore be changed after it was created.

#: Create a named tuple: ``new_named_tuple(Position, (7, 'x1'))``. The tuple must have
#: all values.
#: PERF: the class itself is a function in Python, and three times as slow. Each
#:   publication of a stream needs six named tuples (benchmarks/event_streams.py).
new_named_tuple: Final = tuple.__new__


class Position(NamedTuple):
    """A position in the log of one channel.

    Offsets are 1, 2, 3 ... without gaps within one epoch. Offset 0 is the position
    before the first publication. Compare positions only within one epoch, because
    each epoch is a separate log. A channel without history has the position ``(0,
    '')``.
    """

    offset: int
    epoch: str


class Newest(NamedTuple):
    """A request for the newest publications of a log, instead of a position.

    Attributes:
        limit: Maximum number of publications, or ``None`` for no limit of its own.
    """

    limit: int | None


#: `ChannelEnd.error` of a stream that was aborted.
ABORTED = 'aborted'

#: The position of a channel without a log.
NO_POSITION = Position(0, '')


class ChannelEnd(NamedTuple):
    """The end of a channel; `Channels.finish` makes it.

    Attributes:
        error: Why the channel has failed, for readers; ``''`` if it ended with success,
            and ``'aborted'`` after `Channels.abort_stream`.
    """

    error: str = ''


class ClientInfo(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Public information about a connection, which other clients may see.

    Attributes:
        user: Id of the user, ``''`` for an anonymous user.
        client: Id of the connection, assigned by the server.
        conn_info: Public data about the connection as JSON bytes, or ``None``.
        chan_info: Public data about the subscription as JSON bytes, or ``None``.
    """

    user: str
    client: str
    conn_info: bytes | None = None
    chan_info: bytes | None = None


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """One item in a channel.

    Attributes:
        data: Payload: JSON text in UTF-8, or any bytes if `binary` is true.
        offset: Offset in the channel's log, from 1; 0 without history.
        binary: Whether `data` is not JSON. A binary publication cannot be sent to a
            JSON connection.
        time_ms: Unix time in milliseconds when the broker stored it; 0 if unknown.
        tags: Labels of the publication, or ``None``.
        info: The client that published it; ``None`` if the application did.
        end: The end of the channel, in its last publication; else ``None``. `data` of
            a last publication may be empty.
        delta: Whether it may be sent as a delta (`ChannelOptions.delta`).
        trace: Trace context of the publish, as a W3C ``traceparent``; ``''`` for none.
            It is never sent to clients.
    """

    data: bytes
    offset: int = 0
    binary: bool = False
    time_ms: int = 0
    tags: dict[str, str] | None = None
    info: ClientInfo | None = None
    end: ChannelEnd | None = None
    delta: bool = True
    trace: str = ''

    @property
    def only_ends(self) -> bool:
        """Whether it ends the channel and has no data for readers."""
        return self.end is not None and not self.data

    def value(self) -> Any:
        """Return the decoded payload, or `data` itself if it is binary.

        The value of a last publication without data is ``None``.
        """
        if self.only_ends:
            return None
        if self.binary:
            return self.data
        return decode_json(self.data)


def approximate_size_bytes(item: Publication | Signal) -> int:
    """Return the approximate size in bytes of an item as sent to a client."""
    size_bytes = 80
    info = item.info
    if info is not None:
        size_bytes += len(info.user) + len(info.client) + 60
        size_bytes += len(info.conn_info or b'') + len(info.chan_info or b'')
    if isinstance(item, Publication):
        size_bytes += len(item.data)
        if item.tags:
            for name, value in item.tags.items():
                size_bytes += len(name) + len(value) + 6
    return size_bytes


def approximate_total_bytes(publications: Iterable[Publication]) -> int:
    """Return the sum of `approximate_size_bytes` of all publications."""
    return sum(map(approximate_size_bytes, publications))


class Signal(msgspec.Struct, frozen=True):
    """A join or leave. Subscribers are told about it, but no log stores it.

    Attributes:
        kind: ``'join'`` or ``'leave'``.
        info: The client that joined or left.
    """

    kind: Literal['join', 'leave']
    info: ClientInfo


class PresenceStats(NamedTuple):
    """Number of connections and of different users in a channel."""

    num_clients: int
    num_users: int


class HistoryPage(NamedTuple):
    """Publications read from the log of one channel.

    Attributes:
        publications: Publications in offset order, or in reverse order if requested.
        position: Top of the log at the time of reading. A client that subscribes from
            here misses nothing.
        end: The end of the channel if it has ended at `position`, else ``None``. It is
            known even if its publication has left the log.
    """

    publications: list[Publication]
    position: Position
    end: ChannelEnd | None = None

    def to_media(self) -> dict[str, Any]:
        """Return a value for ``resp.media``.

        Its form is ``{"publications": [{"data": ..., "offset": 1}], "offset": 1,
        "epoch": "..."}``. A publication also has ``time``, ``tags`` and ``info`` if
        they are known. If the channel has ended, there is ``"end": {"error": ""}``, and
        a last publication without data is left out.

        Raises:
            ValueError: A publication is binary and cannot be written as JSON.
        """
        media: dict[str, Any] = {
            'publications': [_media(item) for item in without_end(self.publications)],
            'offset': self.position.offset,
            'epoch': self.position.epoch,
        }
        if self.end is not None:
            media['end'] = self.end._asdict()
        return media


def first_offset(items: Iterable[Publication | Signal]) -> int | None:
    """Return the offset of the first stored publication, or ``None`` for none."""
    for item in items:
        if isinstance(item, Publication) and item.offset:
            return item.offset
    return None


def without_end(publications: list[Publication]) -> list[Publication]:
    """Return publications without one that only ends the channel.

    A client is told about the end in another way, and gets no publication without data.
    """
    # PERF: a list is made faster than a generator runs (benchmarks/centrifugo.py).
    if [item for item in publications if item.end is not None]:
        return [item for item in publications if not item.only_ends]
    return publications


class Snapshot(NamedTuple):
    """A state of the application, and a position from which a client follows it.

    Attributes:
        state: The state.
        position: Position of the channel, read before the state. A client that
            subscribes from here misses no change.
    """

    state: Any
    position: Position

    def to_media(self) -> dict[str, Any]:
        """Return ``{"state": ..., "offset": 7, "epoch": "..."}`` for ``resp.media``."""
        return {
            'state': self.state,
            'offset': self.position.offset,
            'epoch': self.position.epoch,
        }


def _media(publication: Publication) -> dict[str, Any]:
    if publication.binary:
        raise ValueError(
            f'publication {publication.offset} is binary and cannot be written as '
            'JSON; read publication.data instead'
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
        item['info'] = client_info_media(publication.info)
    return item


def client_info_media(info: ClientInfo) -> dict[str, Any]:
    """Return a ClientInfo for ``resp.media``: ``{"user": ..., "client": ...}``."""
    media: dict[str, Any] = {'user': info.user, 'client': info.client}
    if info.conn_info is not None:
        media['conn_info'] = decode_json(info.conn_info)
    if info.chan_info is not None:
        media['chan_info'] = decode_json(info.chan_info)
    return media
