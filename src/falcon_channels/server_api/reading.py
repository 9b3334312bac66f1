"""The methods of the server API that read or remove what a channel has stored."""

from __future__ import annotations

from typing import Annotated
from typing import Any

import msgspec

from falcon_channels.parts import in_parts
from falcon_channels.protocol import codes
from falcon_channels.server_api.media import encode_in_parts
from falcon_channels.server_api.media import info_media
from falcon_channels.server_api.media import publication_media
from falcon_channels.server_api.requests import ApiError
from falcon_channels.server_api.requests import ChannelRequest
from falcon_channels.server_api.requests import MethodGroup
from falcon_channels.server_api.requests import MethodTable
from falcon_channels.server_api.requests import read_position
from falcon_channels.server_api.requests import StreamPosition

#: Number of clients that are encoded without a pause.
_PRESENCE_PART = 500


class _History(ChannelRequest):
    limit: Annotated[int, msgspec.Meta(ge=-1, le=2**31)] = 0
    since: StreamPosition | None = None
    reverse: bool = False


class ReadingMethods(MethodGroup):
    """Methods for history and presence."""

    def table(self) -> MethodTable:
        return {
            'history': (_History, self._history),
            'history_remove': (ChannelRequest, self._history_remove),
            'presence': (ChannelRequest, self._presence),
            'presence_stats': (ChannelRequest, self._presence_stats),
        }

    async def _history(self, request: _History) -> dict[str, Any]:
        match = await self._node.match(request.channel)
        if not match.route.options.history_size:
            raise ApiError(codes.NOT_AVAILABLE, 'the channel has no history')
        since = read_position(request.since)
        if request.reverse and since is not None and not since.offset:
            raise ApiError(codes.BAD_REQUEST, 'no publication comes before offset 0')
        page = await self._node.reader.history(
            request.channel,
            since=since,
            limit=None if request.limit < 0 else request.limit,
            reverse=request.reverse,
        )
        answer = {
            'publications': [publication_media(item) for item in page.publications],
            'offset': page.position.offset,
            'epoch': page.position.epoch,
        }
        if page.end is not None:
            answer['end'] = page.end._asdict()
        return answer

    async def _history_remove(self, request: ChannelRequest) -> dict[str, Any]:
        await self._node.reader.remove_history(request.channel)
        return {}

    async def _presence(self, request: ChannelRequest) -> dict[str, Any]:
        entries = await self._node.reader.presence(request.channel)
        return {
            'presence': await encode_in_parts(
                {client: info_media(info) for client, info in part}
                async for part in in_parts(list(entries.items()), _PRESENCE_PART)
            )
        }

    async def _presence_stats(self, request: ChannelRequest) -> dict[str, Any]:
        return (await self._node.reader.presence_stats(request.channel))._asdict()
