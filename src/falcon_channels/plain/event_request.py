"""Parse requests for event streams and polls."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from typing import NamedTuple

import falcon
import falcon.asgi

from falcon_channels.errors import InvalidValueError
from falcon_channels.node import Node
from falcon_channels.options import check_options
from falcon_channels.options import EventStreamOptions
from falcon_channels.protocol import event_codec
from falcon_channels.publication import Position
from falcon_channels.transports.http_stream import EVENT_STREAM

#: Characters of the longest offset and of a usual epoch, in an event id.
_POSITION_CHARACTERS = 64

#: What the application names: one channel, several, or their event names by channel.
ChannelNames = str | Iterable[str] | Mapping[str, str]


class EventRequest(NamedTuple):
    """A parsed request for a stream or a poll.

    Attributes:
        channels: Names of the channels, in the order of the application.
        names: How the events are named.
        positions: Positions of the client.
        ends: Channels whose ends the client knows.
        forgotten: Whether the client has an event id that is not one of this stream.
        returns: Whether the client has sent a position, even an empty one.
        options: Options of the application.
    """

    channels: tuple[str, ...]
    names: event_codec.Names
    positions: Mapping[str, Position]
    ends: frozenset[str]
    forgotten: bool
    returns: bool
    options: EventStreamOptions


def read_request(
    node: Node,
    req: falcon.Request,
    channels: ChannelNames,
    options: EventStreamOptions | None,
) -> EventRequest:
    """Parse a request for a stream or a poll.

    Raises:
        InvalidValueError: The channels or their event names cannot be served.
        OptionsError: The options have another class.
        falcon.HTTPInvalidParam: ``?since=`` is malformed.
    """
    options = EventStreamOptions() if options is None else options
    check_options(options, EventStreamOptions)
    by_channel = _by_channel(channels)
    names = tuple(by_channel)
    limit = node.options.max_channels_per_connection
    if not 0 < len(names) <= limit:
        raise InvalidValueError(
            f'an event stream has 1 to {limit} channels '
            f'(max_channels_per_connection), not {len(names)}'
        )
    if len(names) > 1:
        longest = sum(
            len(event_codec.encode_name(name)) + _POSITION_CHARACTERS for name in names
        )
        if longest > event_codec.MAX_ID_CHARACTERS:
            raise InvalidValueError(
                f'the event ids of these {len(names)} channels could have {longest} '
                f'characters, over the limit of {event_codec.MAX_ID_CHARACTERS}: '
                'serve fewer channels, or use an SDK'
            )
    last_id = _last_id(req)
    positions = (
        event_codec.decode_positions(last_id.text, names) if last_id.text else {}
    )
    if positions is None and not last_id.is_header:
        raise falcon.HTTPInvalidParam('write it as OFFSET:EPOCH, such as 7:x1', 'since')
    return EventRequest(
        channels=names,
        names=event_codec.Names(
            tuple((channel, name) for channel, name in by_channel.items() if name),
            options.event_tag,
        ),
        positions=positions or {},
        ends=event_codec.decode_ends(last_id.text, positions or {}),
        forgotten=positions is None,
        returns=bool(last_id.text) or req.has_param('since'),
        options=options,
    )


def _by_channel(channels: ChannelNames) -> dict[str, str]:
    """Return the event name of each channel; ``''`` for none."""
    if isinstance(channels, str):
        return {channels: ''}
    if not isinstance(channels, Mapping):
        return dict.fromkeys(channels, '')
    for channel, name in channels.items():
        if not isinstance(name, str) or not event_codec.is_one_line(name):
            raise InvalidValueError(
                f'the event name of {channel!r} is {name!r}, but must be one line'
            )
    return dict(channels)


class _LastId(NamedTuple):
    """The id of the last event that a client has received.

    Attributes:
        text: The id as the client sent it; ``''`` for none.
        is_header: Whether it is the header, which a browser sends by itself.
    """

    text: str
    is_header: bool


def _last_id(req: falcon.Request) -> _LastId:
    """Return the last event id of a client.

    NOTE: an EventSource reconnects with the same URL. Its header is newer than
    ``since`` in the URL.
    """
    header = req.get_header('Last-Event-ID')
    if header:
        return _LastId(header, is_header=True)
    return _LastId(req.get_param('since', default=''), is_header=False)


def wants_poll(req: falcon.Request) -> bool:
    """Return whether a client prefers JSON to an event stream."""
    preferred = req.client_prefers((EVENT_STREAM, falcon.MEDIA_JSON))
    return preferred == falcon.MEDIA_JSON
