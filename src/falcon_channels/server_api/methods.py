"""The methods of the server API: requests and answers, without HTTP.

Names, fields and error codes are those of Centrifugo's server API, so that its client
libraries work. A request is a Struct, which refuses unknown fields: an error is better
than an option that is ignored silently.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Mapping
import fnmatch
from functools import partial
import logging
from typing import Annotated
from typing import Any
from typing import ClassVar
from typing import Final
from typing import TypeVar

import falcon
import falcon.asgi
import msgspec

from falcon_channels.access.publishing import call_in_batches
from falcon_channels.access.responders import text_for_client
from falcon_channels.access.rpc import check_responders
from falcon_channels.access.rpc import RpcResponders
from falcon_channels.brokers.base import MAX_VERSION
from falcon_channels.brokers.base import PublishResult
from falcon_channels.cluster.connections import ConnectionQuery
from falcon_channels.cluster.connections import MAX_CONNECTIONS
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import CapabilityError
from falcon_channels.errors import ChannelFinishedError
from falcon_channels.errors import ChannelNameError
from falcon_channels.errors import ClosedError
from falcon_channels.errors import PayloadError
from falcon_channels.errors import PositionError
from falcon_channels.errors import PublicationTooLargeError
from falcon_channels.errors import TooManyUsersError
from falcon_channels.errors import UnknownChannelError
from falcon_channels.errors import UnsubscribedError
from falcon_channels.filters import check_depth
from falcon_channels.filters import TagFilter
from falcon_channels.json_decoding import decode_base64
from falcon_channels.node import Node
from falcon_channels.protocol import codes
from falcon_channels.protocol.json_values import encode_json
from falcon_channels.protocol.json_values import NOT_JSON
from falcon_channels.publication import Position
from falcon_channels.routing import check_resource
from falcon_channels.server_api.media import info_media
from falcon_channels.server_api.media import publication_media
from falcon_channels.server_api.tail import MAX_HEARTBEAT_S
from falcon_channels.server_api.tail import MAX_TAILS
from falcon_channels.server_api.tail import TailConnection
from falcon_channels.server_api.tail import Tails

_logger = logging.getLogger('falcon_channels')

#: Largest number of channels in a broadcast.
MAX_BROADCAST_CHANNELS = 1000
#: Largest number of commands in a batch.
MAX_BATCH_COMMANDS = 1000

_Offset = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Version = Annotated[int, msgspec.Meta(ge=0, le=MAX_VERSION)]
_Seconds = Annotated[int, msgspec.Meta(ge=0, le=2**53)]

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


class ApiError(Exception):
    """The error with which a method answers.

    Attributes:
        code: Code of the table in docs/server_api.md.
        message: Text for the caller.
    """

    def __init__(self, error: codes.ReplyError, details: str = '') -> None:
        message = f'{error.message}: {details}' if details else error.message
        super().__init__(message)
        self.code = error.code
        self.message = message

    def to_media(self) -> dict[str, Any]:
        """Return ``{"code": 107, "message": "..."}``."""
        return {'code': self.code, 'message': self.message}


class ApiRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of all requests."""

    #: Fields that are refused if they have a value, and the reasons.
    refused: ClassVar[Mapping[str, str]] = {}


class _Payload(ApiRequest):
    data: Any = msgspec.UNSET
    b64data: str = ''
    skip_history: bool = False
    tags: dict[str, str] | None = None
    idempotency_key: str = ''
    delta: bool | None = None
    version: _Version = 0
    version_epoch: str = ''


class _Publish(_Payload, kw_only=True):
    channel: str


class _Finish(ApiRequest, kw_only=True):
    channel: str
    data: Any = None
    b64data: str = ''
    error: str = ''
    tags: dict[str, str] | None = None
    idempotency_key: str = ''


class _Broadcast(_Payload, kw_only=True):
    channels: Annotated[
        list[str], msgspec.Meta(min_length=1, max_length=MAX_BROADCAST_CHANNELS)
    ]


class _StreamPosition(ApiRequest):
    offset: _Offset = 0
    epoch: str = ''


class _UserRequest(ApiRequest):
    refused = {
        'label_filter': 'connections have no labels',
        'all_users': 'name a user',
        'override': 'the options belong to the route',
    }

    user: str
    client: str = ''
    session: str = ''
    label_filter: Any = None
    all_users: bool = False


class _Subscribe(_UserRequest, kw_only=True):
    channel: str
    info: Any = None
    b64info: str = ''
    data: Any = None
    b64data: str = ''
    expire_at: _Seconds = 0
    recover_since: _StreamPosition | None = None
    server_tags_filter: TagFilter | None = None
    override: dict[str, Any] | None = None


class _Unsubscribe(_UserRequest, kw_only=True):
    channel: Annotated[str, msgspec.Meta(min_length=1)]


class _DisconnectWith(ApiRequest):
    code: int = 0
    reason: str = ''


class _Disconnect(_UserRequest):
    whitelist: list[str] = []
    disconnect: _DisconnectWith | None = None


class _Revoke(ApiRequest):
    user: Annotated[str, msgspec.Meta(min_length=1)]
    channel: str
    ttl_s: Annotated[float, msgspec.Meta(gt=0, le=2**31)] | None = None


class _Restore(ApiRequest):
    user: Annotated[str, msgspec.Meta(min_length=1)]
    channel: str


class _Connections(ApiRequest):
    refused = {'expression': 'give a user, a channel or a client'}

    user: str | None = None
    channel: str = ''
    client: str = ''
    limit: Annotated[int, msgspec.Meta(ge=0, le=MAX_CONNECTIONS)] = 100
    expression: str = ''


class _Refresh(_UserRequest):
    expired: bool = False
    expire_at: _Seconds = 0
    info: Any = None


class _Channel(ApiRequest):
    channel: str


class _Tail(_Channel):
    since: _StreamPosition | None = None
    heartbeat_s: Annotated[int, msgspec.Meta(ge=1, le=MAX_HEARTBEAT_S)] = 10


class _History(_Channel):
    limit: Annotated[int, msgspec.Meta(ge=-1, le=2**31)] = 0
    since: _StreamPosition | None = None
    reverse: bool = False


class _Explain(_Channel, kw_only=True):
    offset: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    user: str
    client: str = ''
    epoch: str = ''


class _RecordUser(ApiRequest, kw_only=True):
    user: str
    for_s: float = 600.0


class _Channels(ApiRequest):
    pattern: Annotated[str, msgspec.Meta(max_length=1000)] = ''


class _Nothing(ApiRequest):
    pass


class _Rpc(ApiRequest):
    method: Annotated[str, msgspec.Meta(min_length=1)]
    params: msgspec.Raw = msgspec.Raw(b'null')


class _Batch(ApiRequest):
    commands: Annotated[
        list[dict[str, msgspec.Raw]], msgspec.Meta(max_length=MAX_BATCH_COMMANDS)
    ]
    parallel: bool = False


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


Method = Callable[[Any], Awaitable[dict[str, Any]]]
_Result = TypeVar('_Result')


class ApiMethods:
    """Calls the methods of the server API by name.

    Args:
        node: Node of this process.
        resource: Resource of the application with ``on_rpc(req, call)`` and
            ``on_rpc_{method}(req, call)``, or ``None``.
    """

    def __init__(self, node: Node, resource: object = None) -> None:
        self._node = node
        self._tails = Tails(node)
        self._rpc_responders = RpcResponders(resource)
        check_resource(resource, ('on_rpc',))
        check_responders(resource, self._rpc_responders.names)
        self._methods: dict[str, tuple[type[ApiRequest], Method]] = {
            'publish': (_Publish, self._publish),
            'broadcast': (_Broadcast, self._broadcast),
            'finish': (_Finish, self._finish),
            'subscribe': (_Subscribe, self._subscribe),
            'unsubscribe': (_Unsubscribe, self._unsubscribe),
            'disconnect': (_Disconnect, self._disconnect),
            'refresh': (_Refresh, self._refresh),
            'revoke': (_Revoke, self._revoke),
            'restore': (_Restore, self._restore),
            'connections': (_Connections, self._list_connections),
            'presence': (_Channel, self._presence),
            'presence_stats': (_Channel, self._presence_stats),
            'history': (_History, self._history),
            'history_remove': (_Channel, self._history_remove),
            'explain': (_Explain, self._explain),
            'record_user': (_RecordUser, self._record_user),
            'channels': (_Channels, self._list_channels),
            'info': (_Nothing, self._info),
        }

    def add(self, name: str, request_type: type[ApiRequest], method: Method) -> None:
        """Add a method, which `call` finds by its name from now on."""
        self._methods[name] = (request_type, method)

    async def call(
        self, name: str, body: bytes | msgspec.Raw, req: falcon.asgi.Request
    ) -> dict[str, Any]:
        """Call a method; return its answer, ``{"result": {}}`` or ``{"error": {}}``.

        Args:
            name: Name of the method.
            body: Request in JSON.
            req: The HTTP request, for responders of the application.
        """
        try:
            if name == 'batch':
                return {'replies': await self._batch(_decode(body, _Batch), req)}
            return {'result': await self._call(name, body, req)}
        except ApiError as ex:
            return {'error': ex.to_media()}

    async def tail(self, body: bytes) -> TailConnection:
        """Subscribe a connection that follows a channel; the caller sends its stream.

        Args:
            body: Request in JSON.

        Raises:
            ApiError: The request is refused.
        """
        return await _translated('tail', self._tail, _decode(body, _Tail))

    async def _tail(self, request: _Tail) -> TailConnection:
        if self._tails.is_full:
            raise ApiError(
                codes.LIMIT_EXCEEDED, f'this process already has {MAX_TAILS} tails'
            )
        return await self._tails.open(
            request.channel, _since(request.since), request.heartbeat_s
        )

    async def _call(
        self, name: str, body: bytes | msgspec.Raw, req: falcon.asgi.Request
    ) -> dict[str, Any]:
        if name == 'rpc':
            call = partial(self._rpc, req)
            return await _translated(name, call, _decode(body, _Rpc))
        found = self._methods.get(name)
        if found is None:
            if name == 'tail':
                raise ApiError(codes.NOT_AVAILABLE, 'tail: send it alone')
            if name in _NOT_AVAILABLE:
                raise ApiError(codes.NOT_AVAILABLE, name)
            raise ApiError(codes.METHOD_NOT_FOUND, name[:80])
        request_type, method = found
        request = _decode(body, request_type)
        for field, reason in request_type.refused.items():
            if getattr(request, field, None):
                raise ApiError(codes.NOT_AVAILABLE, f'{field}: {reason}')
        return await _translated(name, method, request)

    async def _batch(
        self, batch: _Batch, req: falcon.asgi.Request
    ) -> list[dict[str, Any]]:
        if batch.parallel:
            replies = (self._reply(command, req) for command in batch.commands)
            return await asyncio.gather(*replies)
        return [await self._reply(command, req) for command in batch.commands]

    async def _reply(
        self, command: dict[str, msgspec.Raw], req: falcon.asgi.Request
    ) -> dict[str, Any]:
        try:
            if len(command) != 1:
                raise ApiError(
                    codes.BAD_REQUEST,
                    f'a command has one method, but this one has {len(command)}',
                )
            ((name, body),) = command.items()
            return {name: await self._call(name, body, req)}
        except ApiError as ex:
            return {'error': ex.to_media()}

    # --- publications ----------------------------------------------------------------

    async def _publish(self, request: _Publish) -> dict[str, Any]:
        return await self._publish_to(request.channel, request, _payload(request))

    async def _broadcast(self, request: _Broadcast) -> dict[str, Any]:
        payload = _payload(request)

        async def publish(channel: str) -> dict[str, Any]:
            return await self._publish_to(channel, request, payload)

        async def respond(channel: str) -> dict[str, Any]:
            try:
                return {'result': await _translated('broadcast', publish, channel)}
            except ApiError as ex:
                return {'error': ex.to_media()}

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
                _data(request.data, request.b64data),
                error=request.error,
                idempotency_key=request.idempotency_key or None,
                tags=request.tags,
            )
        )

    async def _history(self, request: _History) -> dict[str, Any]:
        match = await self._node.match(request.channel)
        if not match.route.options.history_size:
            raise ApiError(codes.NOT_AVAILABLE, 'the channel has no history')
        since = _since(request.since)
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

    async def _history_remove(self, request: _Channel) -> dict[str, Any]:
        await self._node.reader.remove_history(request.channel)
        return {}

    # --- presence --------------------------------------------------------------------

    async def _presence(self, request: _Channel) -> dict[str, Any]:
        entries = await self._node.reader.presence(request.channel)
        return {
            'presence': {client: info_media(info) for client, info in entries.items()}
        }

    async def _presence_stats(self, request: _Channel) -> dict[str, Any]:
        return (await self._node.reader.presence_stats(request.channel))._asdict()

    # --- explanations ----------------------------------------------------------------

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

    # --- connections of users --------------------------------------------------------

    async def _subscribe(self, request: _Subscribe) -> dict[str, Any]:
        if request.server_tags_filter is not None:
            check_depth(request.server_tags_filter)
        await self._node.users.subscribe_user(
            request.user,
            request.channel,
            client=request.client,
            session=request.session,
            info=_value('info', request.info, request.b64info),
            data=_value('data', request.data, request.b64data),
            since=_since(request.recover_since),
            expires_at=float(request.expire_at) or None,
            filter=request.server_tags_filter,
        )
        return {}

    async def _unsubscribe(self, request: _Unsubscribe) -> dict[str, Any]:
        await self._node.users.unsubscribe_user(
            request.user,
            request.channel,
            client=request.client,
            session=request.session,
        )
        return {}

    async def _disconnect(self, request: _Disconnect) -> dict[str, Any]:
        close = request.disconnect or _DisconnectWith()
        code = close.code or codes.DISCONNECT_FORCE.code
        if not 3000 <= code <= 4999:
            raise ApiError(
                codes.BAD_REQUEST, f'code is {code}, but close codes are 3000 to 4999'
            )
        reason_bytes = len(close.reason.encode())
        if reason_bytes > codes.MAX_REASON_BYTES:
            raise ApiError(
                codes.BAD_REQUEST,
                f'reason of {reason_bytes} bytes exceeds {codes.MAX_REASON_BYTES}',
            )
        await self._node.users.disconnect_user(
            request.user,
            client=request.client,
            session=request.session,
            code=code,
            reason=close.reason or codes.DISCONNECT_FORCE.reason,
            exclude=request.whitelist,
        )
        return {}

    async def _refresh(self, request: _Refresh) -> dict[str, Any]:
        await self._node.users.refresh_user(
            request.user,
            client=request.client,
            session=request.session,
            expired=request.expired,
            expires_at=float(request.expire_at) or None,
            info=request.info,
        )
        return {}

    async def _revoke(self, request: _Revoke) -> dict[str, Any]:
        await self._node.users.revoke_user(
            request.user, request.channel, ttl_s=request.ttl_s
        )
        return {}

    async def _restore(self, request: _Restore) -> dict[str, Any]:
        await self._node.users.restore_user(request.user, request.channel)
        return {}

    async def _list_connections(self, request: _Connections) -> dict[str, Any]:
        await self._node.start()
        found = await self._node.connections.find(
            ConnectionQuery(
                user=request.user,
                client=request.client,
                channel=request.channel,
                limit=request.limit,
            )
        )
        return {
            'connections': {facts.client: facts for facts in found.connections},
            'total': found.total,
            'num_nodes': found.num_nodes,
        }

    # --- the application -------------------------------------------------------------

    async def _rpc(self, req: falcon.asgi.Request, request: _Rpc) -> dict[str, Any]:
        responder = self._rpc_responders.find(request.method)
        if responder is None:
            if self._rpc_responders.names:
                raise ApiError(codes.METHOD_NOT_FOUND, request.method[:80])
            raise ApiError(codes.NOT_AVAILABLE, 'rpc: add_api has no resource')
        call = ApiCall(request.method, _decode(request.params, object))
        try:
            await self._node.events.operations.responder('on_rpc', responder(req, call))
        except falcon.HTTPError as ex:
            error = codes.error_for_status(ex.status_code)
            raise ApiError(error, text_for_client(ex)) from None
        except ValueError as ex:
            # NOTE: `_translated` would report a `ValueError` as an error of the caller.
            raise RuntimeError(f'rpc {request.method!r} failed') from ex
        try:
            return {'data': msgspec.Raw(encode_json(call.reply))}
        except NOT_JSON as ex:
            raise RuntimeError(f'the reply of {request.method!r} is not JSON') from ex

    # --- nodes -----------------------------------------------------------------------

    async def _list_channels(self, request: _Channels) -> dict[str, Any]:
        await self._node.start()
        totals = await self._node.info.channels()
        pattern = request.pattern or '*'
        return {
            'channels': {
                channel: {'num_clients': totals[channel]}
                for channel in sorted(totals)
                if fnmatch.fnmatchcase(channel, pattern)
            }
        }

    async def _info(self, request: _Nothing) -> dict[str, Any]:
        await self._node.start()
        return {'nodes': await self._node.info.nodes()}


def _decode(body: bytes | msgspec.Raw, request_type: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body, type=request_type)
    except (msgspec.DecodeError, RecursionError, ValueError) as ex:
        raise ApiError(codes.BAD_REQUEST, str(ex)) from None


async def _translated(
    name: str, method: Callable[[Any], Awaitable[_Result]], request: Any
) -> _Result:
    """Call a method; turn its errors into an `ApiError`."""
    try:
        return await method(request)
    except ApiError:
        raise
    except UnknownChannelError:
        raise ApiError(codes.UNKNOWN_CHANNEL) from None
    except (
        ChannelNameError,
        PayloadError,
        PublicationTooLargeError,
        ValueError,
    ) as ex:
        raise ApiError(codes.BAD_REQUEST, str(ex)) from None
    except ChannelFinishedError:
        raise ApiError(codes.NOT_AVAILABLE, 'the channel is finished') from None
    except PositionError:
        raise ApiError(codes.UNRECOVERABLE_POSITION) from None
    except (CapabilityError, TooManyUsersError) as ex:
        raise ApiError(codes.NOT_AVAILABLE, str(ex)) from None
    except (BrokerUnavailableError, ClosedError, UnsubscribedError) as ex:
        _logger.warning('server API: %s failed: %s', name, ex)
        raise ApiError(codes.INTERNAL) from None
    except Exception:
        # NOTE: this is a defect. The caller gets an internal error. The traceback is in
        #   the log.
        _logger.exception('server API: %s failed', name)
        raise ApiError(codes.INTERNAL) from None


def _payload(request: _Payload) -> Any:
    if not request.b64data and request.data is msgspec.UNSET:
        raise ApiError(codes.BAD_REQUEST, 'data is missing')
    return _data(request.data, request.b64data)


def _data(data: Any, b64data: str) -> Any:
    """Return the data of a request: a JSON value, or bytes decoded from base64."""
    if b64data:
        return _from_base64('b64data', b64data)
    # NOTE: the data is decoded and encoded again, once per request. This removes white
    #   space, and JSON that only some readers accept never reaches a client.
    return data


def _value(name: str, value: Any, in_base64: str) -> Any:
    """Return a field that is a JSON value, or JSON in base64."""
    if not in_base64:
        return value
    if value is not None:
        raise ApiError(codes.BAD_REQUEST, f'{name} and b64{name}: send one of them')
    return _decode(_from_base64(f'b64{name}', in_base64), object)


def _from_base64(name: str, text: str) -> bytes:
    try:
        return decode_base64(text)
    except ValueError:
        raise ApiError(codes.BAD_REQUEST, f'{name} is not base64') from None


def _since(position: _StreamPosition | None) -> Position | None:
    return None if position is None else Position(position.offset, position.epoch)


def _position(result: PublishResult) -> dict[str, Any]:
    answer = {'offset': result.position.offset, 'epoch': result.position.epoch}
    return {**answer, 'skipped': True} if result.skipped else answer
