"""Endpoint: the state and the options that the connections of one endpoint share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import version
import logging
import random
from typing import Any

from falcon_channels.access.publishing import Publisher
from falcon_channels.access.reading import Reader
from falcon_channels.access.rpc import check_responders
from falcon_channels.access.rpc import RpcResponders
from falcon_channels.access.subscribing import Subscriber
from falcon_channels.cluster.dispatch import ControlDispatcher
from falcon_channels.endpoint.rate_limit import Rate
from falcon_channels.endpoint.rate_limit import RateLimiter
from falcon_channels.errors import OptionsError
from falcon_channels.node import Node
from falcon_channels.options import check_options
from falcon_channels.options import EndpointOptions
from falcon_channels.protocol.frame_limits import FrameLimits
from falcon_channels.routing import check_resource
from falcon_channels.timer_wheel import TimerWheel
from falcon_channels.tokens import TokenVerifier
from falcon_channels.transports.client_codecs import ClientCodec
from falcon_channels.transports.encoders import Encoder

#: Maximum number of reasons in the log. There can be one for each user, because a
#: reason can contain the name of a user's channel.
_MAX_LOGGED = 100

_logger = logging.getLogger('falcon_channels')

#: Maximum number of commands in one frame, in addition to one request for each channel.
_MAX_OTHER_COMMANDS = 1024

_RESPONDERS = ('on_connect', 'on_disconnect', 'on_message', 'on_refresh')


class Endpoint:
    """State and options that the connections of one endpoint share.

    Args:
        node: Node of this process.
        resource: Connection resource of the application, or ``None``. It can have
            these responders, all ``async``:
            ``on_connect(req, connection)``,
            ``on_refresh(req, connection)``,
            ``on_disconnect(req, connection)``,
            ``on_rpc(req, call)``,
            ``on_rpc_{method}(req, call)``,
            ``on_message(req, message)``.
            A responder refuses by raising an `HTTPError`.
        tokens: Verifier of connection tokens and subscription tokens, or ``None``.
        options: Limits and times.

    Raises:
        OptionsError: The options or the resource are wrong.
        TypeError: A responder is not a coroutine function.

    Attributes:
        operations: Operations of this process.
        subscriber: Subscribes the connections.
        publisher: Publishes for clients.
        reader: Reads history and presence for clients.
        dispatcher: Applies commands about users to the connections.
        node_id: Id of the node, until it is reopened.
        max_channels: Value of `NodeOptions.max_channels_per_connection`.
        max_batch_bytes: Value of `NodeOptions.max_batch_bytes`.
        version: Name and version of the server, for clients.
        timers: Timers of the connections: pings, deadlines, expiry.
        rate: Rate of the commands of one connection, or ``None`` for no limit.
        user_rates: Rates of users over all their connections, or ``None``.
        restore_rates: Rates at which users restore subscriptions, or ``None``.
        frame_limits: Limits of the commands of one frame.
        has_rpc: Whether the resource has a responder for calls.
    """

    def __init__(
        self,
        node: Node,
        resource: object = None,
        tokens: TokenVerifier | None = None,
        options: EndpointOptions | None = None,
    ) -> None:
        self.node = node
        self.operations = node.operations
        self.max_channels = node.options.max_channels_per_connection
        self.max_batch_bytes = node.options.max_batch_bytes
        self.tokens: TokenVerifier | None = tokens
        self.options = EndpointOptions() if options is None else options
        check_options(self.options, EndpointOptions)
        check_resource(resource, _RESPONDERS)
        if tokens is not None and not isinstance(tokens, TokenVerifier):
            raise OptionsError(
                f'tokens must be a TokenVerifier, not {type(tokens).__name__}: write '
                'TokenVerifier(TokenKey(secret))'
            )
        self.resource = resource
        self.version = f'falcon-channels {version("falcon-channels")}'
        self.rate: Rate | None = None
        if self.options.commands_per_s is not None:
            self.rate = Rate(self.options.commands_per_s, self.options.commands_burst)
            if self.options.commands_burst <= self.max_channels:
                _logger.warning(
                    'a client that reconnects with max_channels_per_connection of %d '
                    'channels sends one command more, but commands_burst is %d, so the '
                    'client must wait. Raise commands_burst',
                    self.max_channels,
                    self.options.commands_burst,
                )
        #: Event loop of the connections, from the first one on.
        self._loop: asyncio.AbstractEventLoop
        self.subscriber: Subscriber
        self.publisher: Publisher
        self.reader: Reader
        self.dispatcher: ControlDispatcher
        self.node_id: str
        self.timers: TimerWheel
        self.user_rates: RateLimiter | None
        self.restore_rates: RateLimiter | None
        self._begin()
        self.frame_limits = FrameLimits(
            node.options.max_message_bytes,
            self.max_channels + _MAX_OTHER_COMMANDS,
        )
        #: Reasons that `log_server_side` has logged.
        self._logged: set[str] = set()
        self._pings: dict[Encoder, Any] = {}
        self._rpc = RpcResponders(resource)
        self.has_rpc = bool(self._rpc.names)
        check_responders(resource, (*_RESPONDERS, *self._rpc.names))
        self.on_connect: Callable[..., Any] | None
        self.on_connect = getattr(resource, 'on_connect', None)
        self.on_refresh: Callable[..., Any] | None
        self.on_refresh = getattr(resource, 'on_refresh', None)
        self.on_disconnect: Callable[..., Any] | None
        self.on_disconnect = getattr(resource, 'on_disconnect', None)
        self.on_message: Callable[..., Any] | None
        self.on_message = getattr(resource, 'on_message', None)

    def _begin(self) -> None:
        """Take the parts of the node that are new after each `Node.reopen`.

        The objects that depend on the clock of the event loop are created.
        """
        node = self.node
        self._hub = node.hub
        self.subscriber = node.subscriber
        self.publisher = node.publisher
        self.reader = node.reader
        self.dispatcher = node.dispatcher
        self.node_id = node.cluster.id
        self.timers = TimerWheel()
        self.user_rates = None
        self.restore_rates = None
        if self.options.user_commands_per_s is not None:
            self.user_rates = RateLimiter(
                self.options.user_commands_per_s, self.options.user_commands_burst
            )
            self.restore_rates = RateLimiter(self.options.user_commands_per_s, 0)

    def begin_connection(self) -> None:
        """Called before a connection is created: begin again if the node was reopened.

        NOTE: a reopened node may run in another event loop, whose clock may be behind.
        Timers and rates of the first loop would then be wrong for a long time.
        """
        if self._hub is not self.node.hub:
            self._begin()
        self._loop = asyncio.get_running_loop()

    def rpc_responder(self, method: str) -> Callable[..., Any] | None:
        """Return ``on_rpc_{method}``, else ``on_rpc``, else ``None``."""
        return self._rpc.find(method)

    def log_server_side(self, reason: str) -> None:
        """Log once why clients cannot get channels of their token or `on_connect`.

        Args:
            reason: Why a client was refused.
        """
        if reason in self._logged or len(self._logged) >= _MAX_LOGGED:
            return
        self._logged.add(reason)
        _logger.warning(
            'clients cannot connect, because of the channels that their token or '
            'on_connect gives them: %s. The clients try again',
            reason,
        )

    def ping(self, encoder: Encoder, codec: ClientCodec) -> Any:
        """Return a ping, ready to be written to connections with this encoder."""
        blob = self._pings.get(encoder)
        if blob is None:
            blob = self._pings[encoder] = encoder.framing.frame(
                [codec.protocol.PING], binary=codec.binary
            )
        return blob

    def now_s(self) -> float:
        """Return the time of the event loop's clock in seconds."""
        return self._loop.time()

    def first_ping_after_s(self, interval_s: float) -> float:
        """Return a random delay between half of an interval and the whole."""
        # NOTE: a thousand clients that connect at the same time are otherwise pinged at
        #   the same time.
        return interval_s * (0.5 + random.random() / 2)
