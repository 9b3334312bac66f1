"""The encodings of plain event streams, and their event ids.

The event (WHATWG HTML section 9.2.5) of a publication has these lines::

    event: message
    data: {"text": "hi"}
    id: 7:x1

An event id has the position of the client after the event. In a stream of one channel
it is ``OFFSET:EPOCH``. A stream of several channels has one position for each channel,
``rooms:1=7:x1&news=9:x1``, because a client stores only the last id. Names and epochs
are percent-encoded there. Such ids differ between clients. `PartsCodec` therefore
leaves them out, and the connection adds them.

The event for the end of a channel has the position ``7:x1:end``. Without this mark, a
client that received the last publication but not the end would send the same id.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Final
from typing import NamedTuple
from urllib.parse import quote
from urllib.parse import unquote

import msgspec

from falcon_channels.protocol.plain_codec import details
from falcon_channels.protocol.plain_codec import json_payload
from falcon_channels.protocol.plain_codec import text_payload
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.publication import Signal

_encode = msgspec.json.encode

#: Maximum length of an event id in characters. Servers limit the size of headers.
MAX_ID_CHARACTERS: Final = 4096
#: Maximum number of digits of an offset.
_MAX_DIGITS: Final = 15
#: Characters of names that are not encoded in an event id.
_SAFE: Final = ":/#@!$'()*;?"
#: Mark after the position of a channel whose end the client knows.
_END: Final = ':end'


class Names(NamedTuple):
    """How the events of a stream are named.

    Attributes:
        by_channel: Event names by channel, as pairs. Without a name, an event is a
            ``message``.
        tag: Name of the tag that has the name of an event, or ``''``.
    """

    by_channel: tuple[tuple[str, str], ...] = ()
    tag: str = ''


class Part(NamedTuple):
    """An encoded publication without its event id.

    Attributes:
        channel: Name of the channel.
        position: Position after the publication. Its offset is 0 if the channel keeps
            no history.
        content: Lines of the event without its id, or a JSON object.
        is_end: Whether it is the event for the end of the channel.
    """

    channel: str
    position: Position
    content: bytes
    is_end: bool = False


class EventCodec:
    """Encodes publications as whole events with their ids, for one channel.

    Args:
        lines: Writes the lines of an event.
    """

    binary = False
    carries_binary = False

    def __init__(self, lines: EventLines) -> None:
        self._lines = lines

    def encode_items(
        self, channel: str, items: Sequence[Publication | Signal], epoch: str
    ) -> list[bytes]:
        """Return one event for each publication; joins and leaves are not sent."""
        encode_lines = self._lines.encode
        events = []
        for item in items:
            if isinstance(item, Publication):
                # PERF: as `encode_position`, without a position for each event.
                event_id = f'{item.offset}:{epoch}' if item.offset else ''
                events.append(end_event(encode_lines(channel, item), event_id))
        return events


class PartsCodec:
    """Encodes publications without event ids, for several channels or for a poll.

    Args:
        encode: Returns the content of a part: `EventLines.encode` or `encode_media`.
    """

    binary = False
    carries_binary = False

    def __init__(self, encode: Callable[[str, Publication], bytes]) -> None:
        self._encode = encode

    def encode_items(
        self, channel: str, items: Sequence[Publication | Signal], epoch: str
    ) -> list[Part]:
        """Return one part for each publication; joins and leaves are not sent."""
        return [
            Part(channel, Position(item.offset, epoch), self._encode(channel, item))
            for item in items
            if isinstance(item, Publication)
        ]


class EventLines:
    """Writes the lines ``event:`` and ``data:``.

    Args:
        names: How the events are named.
        json: Whether a payload that is a text is sent as JSON, and not as it is.
    """

    def __init__(self, names: Names, json: bool) -> None:
        self._by_channel = dict(names.by_channel)
        self._tag = names.tag
        self._payload = json_payload if json else text_payload

    def encode(self, channel: str, publication: Publication) -> bytes:
        """Return the lines of a publication.

        Raises:
            PayloadError: The publication is binary.
        """
        name = ''
        if self._tag and publication.tags:
            name = publication.tags.get(self._tag, '')
        if not name and self._by_channel:
            name = self._by_channel.get(channel, '')
        return event_lines(name, self._payload(publication))


def encode_media(channel: str, publication: Publication) -> bytes:
    """Return a publication as a JSON object for long polling.

    Raises:
        PayloadError: The publication is binary.
    """
    parts = [b'{"channel":', _encode(channel), b',"data":', json_payload(publication)]
    if publication.offset:
        parts.append(b',"offset":%d' % publication.offset)
    parts += details(publication)
    parts.append(b'}')
    return b''.join(parts)


def end_media(channel: str, end: ChannelEnd) -> bytes:
    """Return ``{"channel": "answers:42", "error": ""}`` for a channel that has ended.

    The error is empty if the channel ended with success.
    """
    return _encode({'channel': channel, 'error': end.error})


def event_lines(name: str, data: bytes) -> bytes:
    """Return the lines ``event:`` and ``data:`` of an event.

    SECURITY: a client may choose the text of a tag or of a payload. A line end in it
    must not begin another field or another event.
    """
    if b'\r' in data:
        data = data.replace(b'\r\n', b'\n').replace(b'\r', b'\n')
    # PERF: without a Python object for each line (benchmarks/event_streams.py).
    content = b'data: %s\n' % data.replace(b'\n', b'\ndata: ')
    if not name:
        return content
    return b'event: %s\n%s' % (_one_line(name).encode(), content)


def end_event(content: bytes, event_id: str) -> bytes:
    """Return a whole event: its lines, its id unless that is empty, and the end."""
    if not event_id:
        return content + b'\n'
    return b'%sid: %s\n\n' % (content, event_id.encode())


def is_one_line(text: str) -> bool:
    """Return whether a text can be the value of a field without a change."""
    return text == _one_line(text)


def _one_line(text: str) -> str:
    return text.replace('\r', ' ').replace('\n', ' ').replace('\0', ' ')


# --- event ids -----------------------------------------------------------------------


def encode_position(position: Position, *, is_end: bool = False) -> str:
    """Return the event id of a position in the only channel.

    Args:
        position: The position.
        is_end: Whether it is the event for the end of the channel.
    """
    return f'{position.offset}:{position.epoch}{_END if is_end else ""}'


def encode_positions(
    positions: Mapping[str, Position], ended: Collection[str] = ()
) -> str:
    """Return the event id of positions in several channels.

    Args:
        positions: The positions by channel.
        ended: Channels whose end the client knows.
    """
    return '&'.join(
        [
            f'{encode_name(name)}={position.offset}:{quote(position.epoch)}'
            f'{_END if name in ended else ""}'
            for name, position in positions.items()
            if position.epoch
        ]
    )


def encode_name(channel: str) -> str:
    """Return the name of a channel as it is in an event id."""
    return quote(channel, safe=_SAFE)


def decode_positions(
    text: str, channels: Collection[str]
) -> dict[str, Position] | None:
    """Return the positions of an event id, or ``None`` if it is malformed.

    SECURITY: the id comes from the client. Only channels of the stream are returned, so
    that a client cannot add another one.

    Args:
        text: The event id.
        channels: Channels of the stream.
    """
    if len(text) > MAX_ID_CHARACTERS:
        return None
    if '=' not in text:
        position = _decode_position(text)
        if position is None or len(channels) != 1:
            return None
        return dict.fromkeys(channels, position)
    positions = {}
    for item in text.split('&'):
        name, _, value = item.partition('=')
        position = _decode_position(value)
        if position is None:
            return None
        name = unquote(name)
        if name in channels:
            positions[name] = position._replace(epoch=unquote(position.epoch))
    return positions


def decode_ends(text: str, channels: Collection[str]) -> frozenset[str]:
    """Return the channels whose ends the client knows, by a valid event id.

    Args:
        text: The event id.
        channels: Channels of the stream.
    """
    if '=' not in text:
        return frozenset(channels if text.endswith(_END) else ())
    names = [
        unquote(item.partition('=')[0])
        for item in text.split('&')
        if item.endswith(_END)
    ]
    return frozenset(name for name in names if name in channels)


def _decode_position(text: str) -> Position | None:
    offset, _, epoch = text.removesuffix(_END).partition(':')
    if not offset.isascii() or not offset.isdigit() or len(offset) > _MAX_DIGITS:
        return None
    return Position(int(offset), epoch)
