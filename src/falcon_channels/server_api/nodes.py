"""The methods of the server API that ask all nodes what they have or did."""

from __future__ import annotations

from typing import Annotated
from typing import Any

import msgspec

from falcon_channels.parts import sorted_in_parts
from falcon_channels.server_api.media import encode_in_parts
from falcon_channels.server_api.requests import ApiRequest
from falcon_channels.server_api.requests import ChannelRequest
from falcon_channels.server_api.requests import IdText
from falcon_channels.server_api.requests import MethodGroup
from falcon_channels.server_api.requests import MethodTable


class _Channels(ApiRequest):
    pattern: Annotated[str, msgspec.Meta(max_length=1000)] = ''


class _Nothing(ApiRequest):
    pass


class _Explain(ChannelRequest, kw_only=True):
    offset: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    user: IdText
    client: IdText = ''
    epoch: IdText = ''


class _RecordUser(ApiRequest, kw_only=True):
    user: IdText
    for_s: float = 600.0


class NodeMethods(MethodGroup):
    """Methods that ask all nodes."""

    def table(self) -> MethodTable:
        return {
            'channels': (_Channels, self._list_channels),
            'info': (_Nothing, self._info),
            'explain': (_Explain, self._explain),
            'record_user': (_RecordUser, self._record_user),
        }

    async def _list_channels(self, request: _Channels) -> dict[str, Any]:
        await self._node.start()
        totals = await self._node.info.channels(request.pattern or '*')
        return {
            'channels': await encode_in_parts(
                {name: {'num_clients': totals[name]} for name in part}
                async for part in sorted_in_parts(list(totals))
            )
        }

    async def _info(self, request: _Nothing) -> dict[str, Any]:
        await self._node.start()
        return {'nodes': await self._node.info.nodes()}

    async def _explain(self, request: _Explain) -> dict[str, Any]:
        answers = await self._node.explainer.explain(
            request.channel,
            request.offset,
            request.user,
            client=request.client,
            epoch=request.epoch,
        )
        return {'answers': [answer.to_media() for answer in answers]}

    async def _record_user(self, request: _RecordUser) -> dict[str, Any]:
        num_nodes = await self._node.explainer.record_user(request.user, request.for_s)
        return {'num_nodes': num_nodes}
