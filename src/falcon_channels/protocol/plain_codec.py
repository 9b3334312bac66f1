"""The two encodings for clients without an SDK: plain text, and media with positions.

``text``: a payload that is a JSON string is sent as its text. Any other payload is sent
as JSON text. ``media``: each publication is sent as ``{"data": ..., "offset": 7,
"epoch": "x"}``, with ``tags`` and ``info`` if it has them. Joins and leaves are sent as
``{"join": {"user": ..., "client": ...}}``.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from falcon_channels.errors import PayloadError
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.publication import Signal

_encode = msgspec.json.encode


class TextCodec:
    """Encodes publications as plain text; joins and leaves are not sent."""

    binary = False
    carries_binary = False

    def encode_items(
        self, channel: str, items: Sequence[Publication | Signal], epoch: str
    ) -> list[bytes]:
        """Return one message for each publication."""
        return [text_payload(item) for item in items if isinstance(item, Publication)]


class MediaCodec:
    """Encodes publications as JSON objects with their positions."""

    binary = False
    carries_binary = False

    def encode_items(
        self, channel: str, items: Sequence[Publication | Signal], epoch: str
    ) -> list[bytes]:
        """Return one message for each item."""
        return [
            _media(item, epoch)
            if isinstance(item, Publication)
            else b'{"%s":%s}' % (item.kind.encode(), encode_client_info(item.info))
            for item in items
        ]


TEXT = TextCodec()
MEDIA = MediaCodec()


def subscribed_media(
    position: Position, recovered: bool | None, reply: object = None
) -> bytes:
    """Return the first message of a media connection.

    The shape is ``{"subscribed": {"offset": 7, "epoch": "x", "recovered": true}}``;
    ``recovered`` is present only if the client sent a position.

    Args:
        position: Position from which the client continues.
        recovered: Whether the missed publications follow; ``None`` if not asked.
        reply: Data of ``on_subscribe`` for the client, sent as ``data``; or ``None``.
    """
    facts: dict[str, object] = {'offset': position.offset, 'epoch': position.epoch}
    if recovered is not None:
        facts['recovered'] = recovered
    if reply is not None:
        facts['data'] = reply
    return _encode({'subscribed': facts})


def end_media(end: ChannelEnd) -> bytes:
    """Return the last message of a channel that has ended: ``{"end": {"error": ""}}``.

    The error is empty if the channel ended with success.
    """
    return _encode({'end': {'error': end.error}})


def error_media(status: int, title: str) -> bytes:
    """Return ``{"error": {"status": 403, "title": "..."}}``."""
    return _encode({'error': {'status': status, 'title': title}})


def encode_client_info(info: ClientInfo) -> bytes:
    """Return a ClientInfo as a JSON object; its ``info`` fields are spliced in."""
    parts = [b'{"user":', _encode(info.user), b',"client":', _encode(info.client)]
    if info.conn_info is not None:
        parts += (b',"conn_info":', info.conn_info)
    if info.chan_info is not None:
        parts += (b',"chan_info":', info.chan_info)
    parts.append(b'}')
    return b''.join(parts)


def text_payload(publication: Publication) -> bytes:
    """Return the text of a JSON string, else the payload as JSON text.

    Raises:
        PayloadError: The publication is binary.
    """
    data = json_payload(publication)
    if data[:1] == b'"':
        text: str = msgspec.json.decode(data)
        return text.encode()
    return data


def _media(publication: Publication, epoch: str) -> bytes:
    parts = [b'{"data":', json_payload(publication)]
    if publication.offset:
        parts.append(b',"offset":%d,"epoch":%s' % (publication.offset, _encode(epoch)))
    parts += details(publication)
    parts.append(b'}')
    return b''.join(parts)


def details(publication: Publication) -> list[bytes]:
    """Return the fields ``tags`` and ``info`` of a JSON object, if there are any."""
    parts = []
    if publication.tags:
        parts += [b',"tags":', _encode(publication.tags)]
    if publication.info:
        parts += [b',"info":', encode_client_info(publication.info)]
    return parts


def json_payload(publication: Publication) -> bytes:
    """Return the payload as JSON text.

    Raises:
        PayloadError: The publication is binary.
    """
    if publication.binary:
        raise PayloadError('a binary publication cannot be sent as JSON')
    return publication.data
