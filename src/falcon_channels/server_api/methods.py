"""Calls the methods of the server API by name, without HTTP.

Names, fields and error codes are those of Centrifugo's server API, so that its client
libraries work. The modules `publishing`, `reading`, `users` and `nodes` have the
methods. The module `requests` has the code that they share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Coroutine
from collections.abc import Sequence
from functools import partial
from typing import Annotated
from typing import Any
from typing import Final

import falcon
import falcon.asgi
import msgspec

from falcon_channels.access.responders import text_for_client
from falcon_channels.access.rpc import check_responders
from falcon_channels.access.rpc import RpcResponders
from falcon_channels.node import Node
from falcon_channels.parts import in_parts
from falcon_channels.protocol import codes
from falcon_channels.protocol.json_values import encode_json
from falcon_channels.protocol.json_values import NOT_JSON
from falcon_channels.routing import check_resource
from falcon_channels.server_api.nodes import NodeMethods
from falcon_channels.server_api.publishing import PublishingMethods
from falcon_channels.server_api.publishing import PublishRequest
from falcon_channels.server_api.reading import ReadingMethods
from falcon_channels.server_api.requests import ApiError
from falcon_channels.server_api.requests import ApiRequest
from falcon_channels.server_api.requests import as_api_error
from falcon_channels.server_api.requests import ChannelRequest
from falcon_channels.server_api.requests import decode_request
from falcon_channels.server_api.requests import Method
from falcon_channels.server_api.requests import MethodGroup
from falcon_channels.server_api.requests import MethodTable
from falcon_channels.server_api.requests import read_position
from falcon_channels.server_api.requests import StreamPosition
from falcon_channels.server_api.tail import MAX_HEARTBEAT_S
from falcon_channels.server_api.tail import MAX_TAILS
from falcon_channels.server_api.tail import ResumableTails
from falcon_channels.server_api.tail import TailConnection
from falcon_channels.server_api.users import UserMethods

#: Largest number of commands in a batch.
MAX_BATCH_COMMANDS = 1000
#: Number of commands of a batch that are executed without a pause. Commands of a
#: parallel batch share round trips to the broker only within such a part.
_BATCH_PART = 50

#: Size of the largest batch whose commands are decoded together, in bytes.
_MAX_DECODED_BYTES = 65536

_GROUPS: Final[tuple[type[MethodGroup], ...]] = (
    PublishingMethods,
    ReadingMethods,
    UserMethods,
    NodeMethods,
)

#: Methods of Centrifugo that are not supported: refused with code 108.
_NOT_AVAILABLE: Final = frozenset(
    {
        'update_user_status',
        'get_user_status',
        'delete_user_status',
        'block_user',
        'unblock_user',
        'revoke_token',
        'invalidate_user_tokens',
        'device_register',
        'device_update',
        'device_remove',
        'device_list',
        'device_topic_list',
        'device_topic_update',
        'user_topic_list',
        'user_topic_update',
        'send_push_notification',
        'update_push_status',
        'cancel_push',
        'rate_limit',
        'map_publish',
        'map_remove',
        'map_read_state',
        'map_read_stream',
        'map_stats',
        'map_clear',
        'shared_poll_publish',
    }
)


class _Tail(ChannelRequest):
    since: StreamPosition | None = None
    heartbeat_s: Annotated[int, msgspec.Meta(ge=1, le=MAX_HEARTBEAT_S)] = 10


class _Rpc(ApiRequest):
    method: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    params: msgspec.Raw = msgspec.Raw(b'null')


class _Batch(ApiRequest):
    commands: Annotated[
        list[dict[str, msgspec.Raw]], msgspec.Meta(max_length=MAX_BATCH_COMMANDS)
    ]
    parallel: bool = False


class _PublishCommand(ApiRequest):
    publish: PublishRequest


class _PublishBatch(ApiRequest):
    """A batch in which all commands publish."""

    commands: Annotated[
        list[_PublishCommand], msgspec.Meta(max_length=MAX_BATCH_COMMANDS)
    ]
    parallel: bool = False


def _decode_batch(body: bytes | msgspec.Raw) -> Any:
    """Decode a batch; return a `_Batch` or a `_PublishBatch`.

    Raises:
        ApiError: It is not a batch. The commands of a `_Batch` can be invalid.
    """
    # PERF: most batches only publish. They are decoded in one step, and not command by
    #   command (benchmarks/centrifugo.py). A large batch would block the event loop.
    if len(body) <= _MAX_DECODED_BYTES:
        try:
            return decode_request(body, _PublishBatch)
        except ApiError:
            pass  # another batch
    return decode_request(body, _Batch)


class ApiCall:
    """A remote procedure call of a back end; ``on_rpc`` receives it.

    Attributes:
        method: Name of the method.
        data: Parameters of the caller, as Python values, or ``None``.
        reply: Result for the caller, any JSON value; can be set.
    """

    __slots__ = ('data', 'method', 'reply')

    def __init__(self, method: str, data: Any) -> None:
        self.method = method
        self.data = data
        self.reply: Any = None


class ApiMethods:
    """Calls the methods of the server API by name.

    Args:
        node: Node of this process.
        resource: Resource of the application with ``on_rpc(req, call)`` and
            ``on_rpc_{method}(req, call)``, or ``None``.
    """

    def __init__(self, node: Node, resource: object = None) -> None:
        self._operations = node.operations
        self._tails = ResumableTails(node)
        self._rpc_responders = RpcResponders(resource)
        self._has_resource = resource is not None
        check_resource(resource, ('on_rpc',))
        check_responders(resource, self._rpc_responders.names)
        self._methods: MethodTable = {}
        for group in _GROUPS:
            self.add(group(node).table())

    def add(self, methods: MethodTable) -> None:
        """Add methods, which `call` finds by their names from now on.

        Raises:
            ValueError: There is a method with one of the names already.
        """
        if known := self._methods.keys() & methods.keys():
            raise ValueError(f'these methods were added before: {sorted(known)}')
        self._methods.update(methods)

    def needs_request(self, name: str) -> bool:
        """Return whether a method needs the HTTP request."""
        return name == 'tail' or (self._has_resource and name in ('rpc', 'batch'))

    async def call(
        self, name: str, body: bytes | msgspec.Raw, req: falcon.asgi.Request | None
    ) -> dict[str, Any]:
        """Call a method.

        Args:
            name: Name of the method.
            body: Request in JSON.
            req: The HTTP request, for responders of the application; ``None`` if
                `needs_request` is false.

        Returns:
            The answer, ``{"result": {}}`` or ``{"error": {}}``. A batch that is valid
            has ``{"replies": []}``.
        """
        if name != 'batch':
            return await self._answer('result', name, body, req)
        try:
            batch: _Batch | _PublishBatch = _decode_batch(body)
        except ApiError as ex:
            return {'error': ex.to_media()}
        return {'replies': await self._batch(batch, req)}

    async def tail(self, body: bytes) -> TailConnection:
        """Subscribe a connection that follows a channel; the caller sends its stream.

        Args:
            body: Request in JSON.

        Raises:
            ApiError: The request is refused.
        """
        request: _Tail = decode_request(body, _Tail)
        if self._tails.is_full:
            raise ApiError(
                codes.LIMIT_EXCEEDED, f'this process already has {MAX_TAILS} tails'
            )
        try:
            return await self._tails.open(
                request.channel, read_position(request.since), request.heartbeat_s
            )
        except Exception as ex:
            raise as_api_error('tail', ex) from None

    async def _answer(
        self,
        key: str,
        name: str,
        request: bytes | msgspec.Raw | ApiRequest,
        req: falcon.asgi.Request | None,
    ) -> dict[str, Any]:
        """Call a method; return ``{key: {}}`` or ``{"error": {}}``.

        Args:
            key: Name of the result in the answer.
            name: Name of the method.
            request: Request in JSON, or decoded.
            req: The HTTP request, or ``None``.
        """
        try:
            request_type, method = self._methods.get(name) or self._find(name, req)
            decoded: Any = request
            if not isinstance(decoded, ApiRequest):
                decoded = decode_request(decoded, request_type)
            return {key: await _begin(request_type, method, decoded)}
        except Exception as ex:
            return {'error': as_api_error(name, ex).to_media()}

    def _find(
        self, name: str, req: falcon.asgi.Request | None
    ) -> tuple[type[ApiRequest], Method]:
        """Return a method that is not in the table.

        Raises:
            ApiError: There is no such method.
        """
        if name == 'rpc':
            return _Rpc, partial(self._rpc, req)
        if name == 'tail':
            raise ApiError(codes.NOT_AVAILABLE, 'tail: send it alone')
        if name in _NOT_AVAILABLE:
            raise ApiError(codes.NOT_AVAILABLE, name)
        raise ApiError(codes.METHOD_NOT_FOUND, name[:80])

    async def _batch(
        self, batch: _Batch | _PublishBatch, req: falcon.asgi.Request | None
    ) -> list[dict[str, Any]]:
        if isinstance(batch, _PublishBatch) and not batch.parallel:
            return await self._publish_each(batch.commands)
        replies: list[dict[str, Any]] = []
        commands: Sequence[dict[str, msgspec.Raw] | _PublishCommand] = batch.commands
        async for part in in_parts(commands, _BATCH_PART):
            if batch.parallel:
                replies += await asyncio.gather(
                    *(self._reply(command, req) for command in part)
                )
            else:
                replies += [await self._reply(command, req) for command in part]
        return replies

    async def _publish_each(
        self, commands: Sequence[_PublishCommand]
    ) -> list[dict[str, Any]]:
        """Carry out commands that publish, one after the other; return the replies.

        PERF: a call of `_answer` for each command would need one more coroutine for
        each (benchmarks/centrifugo.py).
        """
        request_type, publish = self._methods['publish']
        replies: list[dict[str, Any]] = []
        for number, command in enumerate(commands):
            if number and number % _BATCH_PART == 0:
                # NOTE: other tasks of the event loop run now.
                await asyncio.sleep(0)
            try:
                result = await _begin(request_type, publish, command.publish)
                replies.append({'publish': result})
            except Exception as ex:
                replies.append({'error': as_api_error('publish', ex).to_media()})
        return replies

    def _reply(
        self,
        command: dict[str, msgspec.Raw] | _PublishCommand,
        req: falcon.asgi.Request | None,
    ) -> Coroutine[Any, Any, dict[str, Any]]:
        if isinstance(command, _PublishCommand):
            return self._answer('publish', 'publish', command.publish, req)
        if len(command) != 1:
            return _refuse_command(len(command))
        ((name, body),) = command.items()
        return self._answer(name, name, body, req)

    async def _rpc(
        self, req: falcon.asgi.Request | None, request: _Rpc
    ) -> dict[str, Any]:
        responder = self._rpc_responders.find(request.method)
        if responder is None:
            if self._rpc_responders.names:
                raise ApiError(codes.METHOD_NOT_FOUND, request.method[:80])
            raise ApiError(codes.NOT_AVAILABLE, 'rpc: add_api has no resource')
        call = ApiCall(request.method, decode_request(request.params, object))
        try:
            await self._operations.responder('on_rpc', responder(req, call))
        except falcon.HTTPError as ex:
            error = codes.error_for_status(ex.status_code)
            raise ApiError(error, text_for_client(ex)) from None
        except ValueError as ex:
            # NOTE: `as_api_error` would return an error of the caller.
            raise RuntimeError(f'rpc {request.method!r} failed') from ex
        try:
            return {'data': msgspec.Raw(encode_json(call.reply))}
        except NOT_JSON as ex:
            raise RuntimeError(f'the reply of {request.method!r} is not JSON') from ex


async def _refuse_command(num_methods: int) -> dict[str, Any]:
    error = ApiError(
        codes.BAD_REQUEST, f'a command has one method, but this one has {num_methods}'
    )
    return {'error': error.to_media()}


def _begin(
    request_type: type[ApiRequest], method: Method, request: Any
) -> Awaitable[dict[str, Any]]:
    """Call a method with a decoded request; return its result as an awaitable.

    Raises:
        ApiError: The request has a field that is not supported.
    """
    if request_type.refused:
        _refuse_fields(request)
    return method(request)


def _refuse_fields(request: Any) -> None:
    """Refuse a request with a value in a field of `ApiRequest.refused`.

    Raises:
        ApiError: It has one.
    """
    for field, reason in request.refused.items():
        if getattr(request, field, None):
            raise ApiError(codes.NOT_AVAILABLE, f'{field}: {reason}')
