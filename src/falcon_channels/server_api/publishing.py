"""The methods of the server API that publish: publish, broadcast and finish."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated
from typing import Any

import msgspec

from falcon_channels.access.publishing import call_in_batches
from falcon_channels.brokers.base import MAX_VERSION
from falcon_channels.brokers.base import PublishResult
from falcon_channels.protocol import codes
from falcon_channels.server_api.requests import ApiError
from falcon_channels.server_api.requests import ApiRequest
from falcon_channels.server_api.requests import as_api_error
from falcon_channels.server_api.requests import IdText
from falcon_channels.server_api.requests import MethodGroup
from falcon_channels.server_api.requests import MethodTable
from falcon_channels.server_api.requests import read_payload

#: Largest number of channels in a broadcast.
MAX_BROADCAST_CHANNELS = 1000

_Version = Annotated[int, msgspec.Meta(ge=0, le=MAX_VERSION)]


class _Payload(ApiRequest):
    data: Any = msgspec.UNSET
    b64data: str = ''
    skip_history: bool = False
    tags: dict[str, str] | None = None
    idempotency_key: IdText = ''
    delta: bool | None = None
    version: _Version = 0
    version_epoch: IdText = ''


class PublishRequest(_Payload, kw_only=True):
    """A request of the method ``publish``."""

    channel: str


class _Broadcast(_Payload, kw_only=True):
    channels: Annotated[
        list[str], msgspec.Meta(min_length=1, max_length=MAX_BROADCAST_CHANNELS)
    ]


class _Finish(ApiRequest, kw_only=True):
    channel: str
    data: Any = None
    b64data: str = ''
    error: IdText = ''
    tags: dict[str, str] | None = None
    idempotency_key: IdText = ''


class PublishingMethods(MethodGroup):
    """Methods that publish."""

    def table(self) -> MethodTable:
        return {
            'publish': (PublishRequest, self._publish),
            'broadcast': (_Broadcast, self._broadcast),
            'finish': (_Finish, self._finish),
        }

    def _publish(self, request: PublishRequest) -> Awaitable[dict[str, Any]]:
        return self._publish_to(request.channel, request, _payload(request))

    async def _broadcast(self, request: _Broadcast) -> dict[str, Any]:
        payload = _payload(request)

        async def respond(channel: str) -> dict[str, Any]:
            try:
                return {'result': await self._publish_to(channel, request, payload)}
            except Exception as ex:
                return {'error': as_api_error('broadcast', ex).to_media()}

        rows = [(channel,) for channel in request.channels]
        return {'responses': await call_in_batches(respond, rows)}

    async def _publish_to(
        self, channel: str, request: _Payload, payload: Any
    ) -> dict[str, Any]:
        if request.delta:
            match = await self._node.match(channel)
            if not match.route.options.delta:
                raise ApiError(
                    codes.NOT_AVAILABLE,
                    'delta: add the route with ChannelOptions(delta=True)',
                )
        return _position(
            await self._node.publisher.publish(
                channel,
                payload,
                idempotency_key=request.idempotency_key or None,
                tags=request.tags,
                delta=request.delta is not False,
                skip_history=request.skip_history,
                version=request.version or None,
                version_epoch=request.version_epoch,
            )
        )

    async def _finish(self, request: _Finish) -> dict[str, Any]:
        return _position(
            await self._node.publisher.finish(
                request.channel,
                read_payload(request.data, request.b64data),
                error=request.error,
                idempotency_key=request.idempotency_key or None,
                tags=request.tags,
            )
        )


def _payload(request: _Payload) -> Any:
    if request.b64data:
        return read_payload(None, request.b64data)
    if request.data is msgspec.UNSET:
        raise ApiError(codes.BAD_REQUEST, 'data is missing')
    return request.data


def _position(result: PublishResult) -> dict[str, Any]:
    (offset, epoch), _, skipped = result
    if skipped:
        return {'offset': offset, 'epoch': epoch, 'skipped': True}
    return {'offset': offset, 'epoch': epoch}
