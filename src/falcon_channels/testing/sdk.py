"""A client of the client protocol without a network, to test a connection resource.

::

    async def scenario() -> None:
        async with channels, SimulatedSdk(channels, Clients(), data='ann') as ann:
            assert 'ann' == ann.connection.user             # on_connect
            assert {'sum': 3} == await ann.rpc('add', [1, 2])   # on_rpc_add
            with pytest.raises(CommandError, match='103'):
                await ann.subscribe('rooms:secret')
        assert 'ann' in left                                # on_disconnect

    run_with_fake_clock(scenario())

The client sends the same commands as an official SDK, to a real `ClientConnection`. It
receives the same replies, error codes and close codes, and answers pings. Unlike an
SDK, it does not reconnect or subscribe again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from typing import Self

from falcon import testing
import msgspec

from falcon_channels.channels import Channels
from falcon_channels.endpoint.client_connection import ClientConnection
from falcon_channels.endpoint.commands import dispatch
from falcon_channels.endpoint.endpoint import Endpoint
from falcon_channels.errors import ChannelsError
from falcon_channels.options import EndpointOptions
from falcon_channels.testing.client import arrives_within
from falcon_channels.testing.client import SimulatedTransport
from falcon_channels.testing.clock import check_clock
from falcon_channels.testing.fresh import check_channels
from falcon_channels.tokens import TokenVerifier
from falcon_channels.transports.client_codecs import JSON

#: Close code and reason of a client that closes its connection on purpose.
_NORMAL_CLOSURE = (1000, '')


class CommandError(ChannelsError):
    """The server answered a command with an error.

    Attributes:
        code: Error code of the client protocol, such as 103 (permission denied).
        message: Text for the client.
        temporary: Whether an SDK repeats the command.
    """

    def __init__(self, code: int, message: str, temporary: bool) -> None:
        super().__init__(f'{code}: {message}')
        self.code = code
        self.message = message
        self.temporary = temporary


class DisconnectedError(ChannelsError):
    """The server has closed the connection.

    Attributes:
        code: Close code, such as 3507 (permission denied).
        reason: Text for the client.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f'{code}: {reason}')
        self.code = code
        self.reason = reason


class SimulatedSdk:
    """A client of the client protocol without a network; see the module's docstring.

    Args:
        channels: The channels under test.
        resource: Connection resource, as for `Channels.add_endpoints`.
        tokens: Verifier, as for `Channels.add_endpoints`.
        options: Options, as for `Channels.add_endpoints`.
        token: Connection token that the client sends.
        data: Data that the client sends to connect, any JSON value.
        name: Name that the client sends.
        headers: Headers that the client sends to connect.
        req: Request for the responders; a request for ``/`` by default. Tests set
            ``req.context`` in place of the application's middleware.

    Raises:
        OptionsError: `channels`, `resource`, `tokens` or `options` cannot be used.

    Attributes:
        connected: The connect result, such as ``{'client': '...', 'data': 1}``.
        pushes: Received pushes that `receive` has not returned yet.
        connection: The connection on the server's side, as responders see it.
    """

    connection: ClientConnection

    def __init__(
        self,
        channels: Channels,
        resource: object = None,
        *,
        tokens: TokenVerifier | None = None,
        options: EndpointOptions | None = None,
        token: str = '',
        data: Any = None,
        name: str = '',
        headers: Mapping[str, str] | None = None,
        req: Any = None,
    ) -> None:
        check_channels(channels)
        self.req = testing.create_asgi_req() if req is None else req
        self.connected: dict[str, Any] = {}
        self.pushes: deque[dict[str, Any]] = deque()
        self._channels = channels
        self._node = channels.node
        self._endpoint = Endpoint(channels.node, resource, tokens, options)
        self._request = {
            'token': token,
            'name': name,
            'headers': headers or {},
            **({} if data is None else {'data': data}),
        }
        self._transport = SimulatedTransport(self._take, self._end)
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._last_id = 0
        self._wake = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            DisconnectedError: The client was refused, for example by ``on_connect``.
            CommandError: The client was refused with an error, such as 109 for an
                expired token.
            ChannelsError: The test has a fake clock, and the broker is not in memory.
            falcon.HTTPServiceUnavailable: The channels are draining, or the limit
                `max_connections` is reached.
        """
        check_clock(self._channels)
        await self._channels.start()
        self.connection = ClientConnection(
            self._endpoint, self._transport, JSON, self.req, dispatch
        )
        self._transport.receiver = self.connection
        self._node.handshake.add(self.connection)
        try:
            self.connected = await self.command('connect', **self._request)
        except BaseException:
            await self.disconnect()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.disconnect()

    # --- commands --------------------------------------------------------------------

    async def command(self, name: str, /, **fields: Any) -> dict[str, Any]:
        """Send a command, and return its result.

        Args:
            name: Name in the client protocol, such as ``'presence'``.
            fields: Fields of the command, such as ``channel='rooms:lobby'``.

        Raises:
            CommandError: The server answered with an error.
            DisconnectedError: The connection has ended.
        """
        self._last_id += 1
        command_id = self._last_id
        reply = asyncio.get_running_loop().create_future()
        self._replies[command_id] = reply
        self._say({'id': command_id, name: fields})
        message = await reply
        if 'error' in message:
            error = message['error']
            raise CommandError(
                error['code'], error['message'], error.get('temporary', False)
            )
        result: dict[str, Any] = message[name]
        return result

    async def rpc(self, method: str, data: Any = None) -> Any:
        """Call a method of the connection resource; return its reply.

        Raises:
            CommandError: The server answered with an error, such as 104 for an unknown
                method.
            DisconnectedError: The connection has ended.
        """
        return (await self.command('rpc', method=method, data=data)).get('data')

    async def send(self, data: Any) -> None:
        """Send a message to ``on_message``; return when it has been handled.

        Raises:
            DisconnectedError: The connection has ended.
        """
        self._say({'send': {'data': data}})
        # NOTE: a message has no reply. Commands are executed in order, and a ping does
        #   nothing. Its reply therefore shows that the message has been handled.
        await self.command('ping')

    async def refresh(self, token: str = '') -> dict[str, Any]:
        """Send a new connection token, and return the result; see ``on_refresh``.

        Raises:
            CommandError: The server answered with an error.
            DisconnectedError: The token was refused.
        """
        return await self.command('refresh', token=token)

    async def subscribe(self, channel: str, **fields: Any) -> dict[str, Any]:
        """Subscribe to a channel; return the result, with recovered publications.

        Args:
            channel: Name of the channel.
            fields: Other fields of the command: ``token``, ``data``, or for recovery
                ``recover=True``, ``offset`` and ``epoch``.

        Raises:
            CommandError: The server answered with an error.
            DisconnectedError: The connection has ended.
        """
        return await self.command('subscribe', channel=channel, **fields)

    async def publish(self, channel: str, data: Any) -> None:
        """Publish as a client.

        Raises:
            CommandError: The server answered with an error.
            DisconnectedError: The connection has ended.
        """
        await self.command('publish', channel=channel, data=data)

    # --- incoming messages ------------------------------------------------------------

    async def receive(self, timeout_s: float = 5.0) -> dict[str, Any]:
        """Wait for the next push, and return it.

        For example ``{'channel': 'rooms:lobby', 'pub': {'data': 1, 'offset': 7}}``.

        Args:
            timeout_s: How long to wait, in seconds. A fake clock does not really wait.

        Raises:
            InvalidValueError: `timeout_s` is not a number of seconds.
            TimeoutError: No push arrived in time.
            DisconnectedError: The connection has ended.
        """
        async with arrives_within(timeout_s, 'push'):
            while not self.pushes:
                if self.end is not None:
                    raise DisconnectedError(*self.end)
                self._wake.clear()
                await self._wake.wait()
        return self.pushes.popleft()

    @property
    def end(self) -> tuple[int, str] | None:
        """Close code and reason, or ``None`` while the connection is open."""
        return self._transport.end

    async def disconnect(self) -> None:
        """Disconnect, and wait until ``on_disconnect`` has ended."""
        self._transport.close(*_NORMAL_CLOSURE)
        # NOTE: the transport tells the connection in the next iteration.
        await asyncio.sleep(0)
        hub = self._node.hub
        await hub.tasks.finish_graceful()

    def _say(self, command: dict[str, Any]) -> None:
        if self.end is not None:
            raise DisconnectedError(*self.end)
        self.connection.on_message(msgspec.json.encode(command).decode())

    def _take(self, payload: Any) -> None:
        """Called with each message of the server: one or more lines of JSON."""
        for line in payload.split(b'\n'):
            message = msgspec.json.decode(line)
            if not message:
                # NOTE: the transport must not call the connection before it returns.
                asyncio.get_running_loop().call_soon(self._answer_ping)
            elif 'push' in message:
                self.pushes.append(message['push'])
            else:
                reply = self._replies.pop(message['id'], None)
                if reply is not None and not reply.done():
                    reply.set_result(message)
        self._wake.set()

    def _answer_ping(self) -> None:
        if self.end is None:
            self.connection.on_message('{}')

    def _end(self) -> None:
        assert self.end is not None
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(DisconnectedError(*self.end))
        self._replies.clear()
        self._wake.set()
