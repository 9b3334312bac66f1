"""Publications, clients and long answers in the form of the server API."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Publication


def publication_media(publication: Publication) -> dict[str, Any]:
    """Return a publication in the form of the API, without parsing its payload."""
    item: dict[str, Any] = {'offset': publication.offset}
    if publication.only_ends:
        item['data'] = None
    elif publication.binary:
        item['data'] = None
        item['b64data'] = base64.b64encode(publication.data).decode()
    else:
        item['data'] = msgspec.Raw(publication.data)
    if publication.time_ms:
        item['time'] = publication.time_ms
    if publication.tags:
        item['tags'] = publication.tags
    if publication.info is not None:
        item['info'] = info_media(publication.info)
    if publication.end is not None:
        item['end'] = publication.end._asdict()
    return item


def info_media(info: ClientInfo) -> dict[str, Any]:
    """Return a `ClientInfo` in the form of the API, without parsing its JSON."""
    item: dict[str, Any] = {'user': info.user, 'client': info.client}
    if info.conn_info is not None:
        item['conn_info'] = msgspec.Raw(info.conn_info)
    if info.chan_info is not None:
        item['chan_info'] = msgspec.Raw(info.chan_info)
    return item


async def encode_in_parts(parts: AsyncIterator[dict[str, Any]]) -> msgspec.Raw:
    """Encode a JSON object whose members come in parts.

    An object of 100,000 members would block the event loop if it was encoded at once.
    """
    encoded = [msgspec.json.encode(part)[1:-1] async for part in parts if part]
    return msgspec.Raw(b'{' + b','.join(encoded) + b'}')
