"""Channels: what an application holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from collections.abc import Mapping
import logging
import random
import secrets
from typing import Any
from typing import Literal
from typing import Self

import falcon.asgi

from falcon_channels.access import authorization
from falcon_channels.access.server_side import subscribe_connection
from falcon_channels.access.subscribing import Admission
from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.urls import open_broker
from falcon_channels.cluster.cluster import Nodes
from falcon_channels.cluster.info import Census
from falcon_channels.cluster.messages import SubscribeUser
from falcon_channels.cluster.user_commands import UserCommands
from falcon_channels.endpoint.endpoint import Endpoint
from falcon_channels.endpoint.http import Emulation
from falcon_channels.endpoint.mount import mount_endpoint
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import CapabilityError
from falcon_channels.errors import ChannelNameError
from falcon_channels.errors import ChannelsError
from falcon_channels.errors import ClosedError
from falcon_channels.errors import EventLoopError
from falcon_channels.errors import PositionError
from falcon_channels.errors import UnknownChannelError
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.hub import Hub
from falcon_channels.hub.hub import stream_settings
from falcon_channels.hub.presence import PresenceKeeper
from falcon_channels.local_subscription import LocalSubscription
from falcon_channels.mounts import Mounts
from falcon_channels.mounts import need_asgi
from falcon_channels.options import ChannelOptions
from falcon_channels.options import check_options
from falcon_channels.options import EndpointOptions
from falcon_channels.options import NodeOptions
from falcon_channels.origin import check_allowed_origins
from falcon_channels.plain.websocket import serve_raw
from falcon_channels.protocol.recovery import check_position
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import PresenceStats
from falcon_channels.publication import Publication
from falcon_channels.routing import ChannelMatch
from falcon_channels.routing import ChannelRouter
from falcon_channels.routing import check_channel_name
from falcon_channels.tokens import TokenVerifier
from falcon_channels.transports.asgi_extensions import DRAIN_HOOKS
from falcon_channels.transports.asgi_extensions import START_ERROR
from falcon_channels.transports.asgi_extensions import WORKERS

_logger = logging.getLogger('falcon_channels')

Status = Literal['new', 'ok', 'link lost', 'draining', 'closed']


class Channels(Mounts, UserCommands):
    """Real-time channels for one application.

    ::

        channels = Channels()
        channels.add_route('rooms:{room}', Room(), ChannelOptions(history_size=100))
        app = falcon.asgi.App(middleware=[channels])

    It starts by itself, with the application's lifespan or with the first call that
    needs it, and belongs to that event loop from then on. As middleware it drains its
    connections when the application shuts down.

    Args:
        broker: Where publications are kept: a URL, a `Broker`, or nothing for the
            memory of this process.
        options: Limits for all channels.

    Raises:
        OptionsError: The URL or the options make no sense.

    Attributes:
        options: As given.
        hub: Connections and subscriptions of this process.
        nodes: This process and the others; its ``id`` is new at every start.
        census: What there is in all of them.
        admission: How connections and subscriptions come in.
    """

    def __init__(
        self,
        broker: str | Broker | None = None,
        options: NodeOptions | None = None,
    ) -> None:
        self.options = NodeOptions() if options is None else options
        check_options(self.options, NodeOptions)
        check_allowed_origins(self.options.allowed_origins)
        self._given = broker
        self._router = ChannelRouter()
        self._endpoints: list[Endpoint] = []
        self._emulation: Emulation | None = None
        self._build(broker if isinstance(broker, Broker) else open_broker(broker))

    def _build(self, broker: Broker) -> None:
        """Make what lives from a start to `close`."""
        self._broker = broker
        self.hub = Hub(broker, self.options)
        self.nodes = Nodes(self.hub, broker, secrets.token_urlsafe(9))
        self.census = Census(self.hub, self.nodes)
        self._presence = PresenceKeeper(self.hub, self._options_of)
        self.admission = Admission(self.hub, self._presence, self.options)
        self._starting: asyncio.Task[None] | None = None
        self._status: Status = 'new'
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining = asyncio.Lock()

    # --- routes ----------------------------------------------------------------------

    @property
    def converters(self) -> Any:
        """Converters for channel templates, as an app's `router_options.converters`."""
        return self._router.converters

    def add_route(
        self,
        template: str,
        resource: object,
        options: ChannelOptions | None = None,
        *,
        suffix: str | None = None,
    ) -> None:
        """Let channels whose name matches a template exist.

        Args:
            template: Such as ``'rooms:{room}'`` or ``'users:{user_id:int}'``.
            resource: Its optional responders, all ``async``: ``on_subscribe(req,
                subscription, **params)``, ``on_publish(req, publication, **params)``,
                ``on_unsubscribe(req, subscription, **params)``, ``on_presence(req,
                connection, **params)``, ``on_history(req, connection, **params)``.
                An `HTTPError` refuses.
            options: What the channels can do.
            suffix: Use responders such as ``on_subscribe_{suffix}``.

        Raises:
            OptionsError: The template or the options make no sense.
            CapabilityError: The options ask for what the broker cannot do.
        """
        options = ChannelOptions() if options is None else options
        check_options(options, ChannelOptions)
        able = self._broker.capabilities
        if options.history_size and not able.history:
            raise CapabilityError(f'{type(self._broker).__name__} keeps no history')
        if options.presence and not able.presence:
            raise CapabilityError(f'{type(self._broker).__name__} knows no presence')
        self._router.add(template, resource, options, suffix)

    async def match(self, channel: str) -> ChannelMatch:
        """Return the route and parameters of a channel, started and ready.

        Raises:
            ChannelNameError: It is not a channel name.
            UnknownChannelError: No route matches.
            ClosedError: After `close`.
            EventLoopError: They were started in another event loop.
        """
        if self._status != 'ok' or asyncio.get_running_loop() is not self._loop:
            await self._ready()
        return self._match(channel)

    def _match(self, channel: str) -> ChannelMatch:
        check_channel_name(channel, self.options.max_channel_bytes)
        match = self._router.match(channel)
        if match is None:
            raise UnknownChannelError(channel)
        return match

    def _options_of(self, channel: str) -> ChannelOptions | None:
        match = self._router.match(channel)
        return None if match is None else match.route.options

    # --- what an application does ----------------------------------------------------

    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        idempotency_key: str | None = None,
        tags: dict[str, str] | None = None,
        connection: Any = None,
    ) -> PublishResult:
        """Publish to a channel.

        Args:
            channel: Its name.
            data: Any JSON value, or `bytes` for a binary payload, which only clients
                that speak Protobuf can receive.
            idempotency_key: 1 to 255 bytes. The same key again, within the channel's
                `idempotency_ttl_s`, publishes nothing and returns the first position.
            tags: Small labels beside the payload.
            connection: The application's own database connection, for brokers that
                can publish within its transaction.

        Returns:
            The position, and whether the key had been used.

        Raises:
            UnknownChannelError: No route matches.
            PayloadError: The data cannot be written as JSON.
            PublicationTooLargeError: It exceeds `max_publication_bytes`.
            BrokerUnavailableError: Stored or not; publish again with the same key.
        """
        match = await self.match(channel)
        payload, binary = authorization.encode_payload(data)
        authorization.check_size(match.route, payload)
        return await self.publish_checked(
            match,
            channel,
            Publication(data=payload, binary=binary, tags=tags),
            idempotency_key=idempotency_key,
            connection=connection,
        )

    async def publish_checked(
        self,
        match: ChannelMatch,
        channel: str,
        publication: Publication,
        *,
        idempotency_key: str | None = None,
        connection: Any = None,
    ) -> PublishResult:
        """Publish what was checked already; for code that brings clients in."""
        authorization.check_labels(publication.tags, idempotency_key)
        if connection is not None and not self._broker.capabilities.transactions:
            raise CapabilityError(
                f'{type(self._broker).__name__} cannot publish within a transaction'
            )
        return await self._broker.publish(
            channel,
            publication,
            stream_settings(match.route.options),
            idempotency_key=idempotency_key,
            connection=connection,
        )

    async def broadcast(
        self,
        channels: Iterable[str],
        data: Any,
        *,
        idempotency_key: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> list[PublishResult]:
        """Publish the same to several channels, in their order; see `publish`.

        All names and sizes are checked before the first is published.
        """
        if isinstance(channels, str):
            raise ChannelNameError(f'broadcast takes several channels: [{channels!r}]')
        payload, binary = authorization.encode_payload(data)
        publication = Publication(data=payload, binary=binary, tags=tags)
        matches = [(channel, await self.match(channel)) for channel in channels]
        for _, match in matches:
            authorization.check_size(match.route, payload)
        return [
            await self.publish_checked(
                match, channel, publication, idempotency_key=idempotency_key
            )
            for channel, match in matches
        ]

    async def history(
        self,
        channel: str,
        *,
        since: Position | None = None,
        limit: int | None = 100,
        reverse: bool = False,
    ) -> HistoryPage:
        """Read what a channel keeps, and its position at the same moment.

        Args:
            channel: Its name.
            since: Only what comes after this position; with `reverse`, before it.
            limit: At most so many publications; 0 reads the position only.
            reverse: Newest first.

        Raises:
            PositionError: `since` is a position of another log.
        """
        check_position(since)
        match = await self.match(channel)
        page = await self._broker.history(
            channel,
            stream_settings(match.route.options),
            since=None if since is None else since.offset,
            limit=limit,
            reverse=reverse,
        )
        if since is not None and since.epoch and since.epoch != page.position.epoch:
            raise PositionError(
                f'{since} is of another log than {page.position}: '
                'read again without since'
            )
        return page

    async def position(self, channel: str) -> Position:
        """Return where a channel stands now, without reading publications.

        Read it before the state of your own that it goes with: what is published
        between the two is then in the state, and comes again to who subscribes from
        the position.

        Returns:
            ``Position(0, '')`` for a channel that keeps no history.

        Raises:
            UnknownChannelError: No route matches.
            BrokerUnavailableError: Try again.
        """
        return (await self.history(channel, limit=0)).position

    async def remove_history(self, channel: str) -> None:
        """Empty a channel's log; positions go on counting."""
        await self.match(channel)
        await self._broker.remove_history(channel)

    async def presence(self, channel: str) -> Mapping[str, ClientInfo]:
        """Return who is subscribed: connection ids to infos.

        Raises:
            CapabilityError: The channel's options have no presence.
        """
        match = await self.match(channel)
        if not match.route.options.presence:
            raise CapabilityError(
                f'channel {channel!r} has no presence: set it to True'
            )
        return await self._broker.presence(channel)

    async def presence_stats(self, channel: str) -> PresenceStats:
        """Return how many connections and how many users are subscribed."""
        there = await self.presence(channel)
        return PresenceStats(len(there), len({info.user for info in there.values()}))

    def subscribe(
        self, channel: str, since: Position | None = None
    ) -> LocalSubscription:
        """Subscribe from code of the application; see `LocalSubscription`."""
        check_position(since)
        return LocalSubscription(self, channel, since)

    @property
    def status(self) -> Status:
        """Where it is in its life, and whether the broker can be reached."""
        if self._status == 'ok' and self.hub.link_lost:
            return 'link lost'
        return self._status

    # --- the raw door ----------------------------------------------------------------

    async def serve(
        self,
        req: falcon.asgi.Request,
        ws: falcon.asgi.WebSocket,
        channel: str,
        *,
        user: str = '',
        info: Any = None,
        media: bool = False,
        since: Position | None = None,
    ) -> None:
        """Let a plain WebSocket take part in a channel; return when it has ended.

        Call it from ``on_websocket``, before or after ``ws.accept()``. The page's
        origin, the route's ``on_subscribe`` and ``on_publish``, and the options decide
        what the client may do.

        Args:
            req: The handshake.
            ws: The WebSocket; nobody else may use it meanwhile.
            channel: Its name.
            user: Who it is, as the application has found out.
            info: Public facts about the connection, for presence and publications.
            media: Speak JSON with positions instead of plain text. The first message
                is ``{"subscribed": {"offset": 7, "epoch": "x"}}``, then come
                ``{"data": ..., "offset": 8, "epoch": "x"}``.
            since: Where the client stands; by default what ``?since=OFFSET:EPOCH``
                in the URL says, which media clients may use to recover.

        Raises:
            falcon.HTTPError: Refused; Falcon tells the client.
        """
        await serve_raw(self, req, ws, channel, user, info, media, since)

    # --- the client protocol ---------------------------------------------------------

    def add_endpoints(
        self,
        app: falcon.asgi.App[Any, Any],
        prefix: str = '/connection',
        resource: object = None,
        *,
        tokens: TokenVerifier | None = None,
        options: EndpointOptions | None = None,
        emulation_path: str = '/emulation',
    ) -> None:
        """Let the official SDKs connect: mount the client protocol on an app.

        Args:
            app: The application.
            prefix: Path under which the endpoints are: ``{prefix}/websocket``,
                ``http_stream``, ``sse``, ``uni_websocket``, ``uni_http_stream`` and
                ``uni_sse``.
            resource: The connection resource, see `Endpoint`.
            tokens: Verifies connection and subscription tokens.
            options: Limits and times.
            emulation_path: Where clients of ``http_stream`` and ``sse`` send commands.

        Raises:
            OptionsError: It is not an ASGI app, or a path makes no sense.
        """
        need_asgi(app, 'add_endpoints')
        if self._emulation is None:
            self._emulation = Emulation(self)
        endpoint = Endpoint(self, resource, tokens, options, emulation=self._emulation)
        self._endpoints.append(endpoint)
        mount_endpoint(app, endpoint, prefix, emulation_path)

    def _on_subscribe_user(self, connection: Connection, asked: SubscribeUser) -> None:
        self.hub.spawn(
            subscribe_connection(self, connection, asked), 'subscribe from here'
        )

    # --- life ------------------------------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that they belong to, from the first call to `close`."""
        return self._loop

    async def start(self) -> None:
        """Connect to the broker now, rather than with the first call.

        Raises:
            BrokerUnavailableError: The store cannot be reached.
        """
        await self._ready()

    async def __aenter__(self) -> Self:
        """Start, also after `close`: for scripts and jobs; leaving closes."""
        self._reopen()
        await self._ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _reopen(self) -> None:
        """After `close`, be as new, so that an application can start again (in tests).

        Raises:
            ClosedError: The broker was given as an object, which starts only once.
        """
        if self._status != 'closed':
            return
        if isinstance(self._given, Broker):
            raise ClosedError(
                'these channels are closed, and can start again only where the broker '
                'was given as a URL'
            )
        before = self.nodes
        self._build(open_broker(self._given))
        self.nodes.take_over(before)

    async def _ready(self) -> None:
        if self._status == 'closed':
            raise ClosedError('these channels are closed')
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not loop:
            raise EventLoopError
        if self._status in ('ok', 'draining'):
            return
        if self._starting is None:
            self._loop = loop
            self._starting = loop.create_task(
                self._start(), name='falcon_channels start'
            )
        starting = self._starting
        try:
            await asyncio.shield(starting)
        except BrokerUnavailableError:
            # NOTE: the next call tries again.
            if self._starting is starting:
                self._starting = self._loop = None
            raise
        except asyncio.CancelledError:
            if starting.cancelled():
                raise ClosedError('these channels are closed') from None
            raise

    async def _start(self) -> None:
        await self._broker.start(self.hub)
        self.hub.on_left = self.admission.on_left
        self.hub.on_subscribe_user = self._on_subscribe_user
        self.hub.start()
        self._presence.start()
        self._status = 'ok'
        await self.nodes.hello()

    async def drain(self) -> None:
        """Close all connections in batches, so that clients come back bit by bit.

        New connections are refused meanwhile. Presence entries are left to expire where
        other processes share them, so that who reconnects there was never away.
        """
        async with self._draining:
            await self._drain()

    async def _drain(self) -> None:
        if self._status != 'ok':
            return
        self._status = 'draining'
        self.admission.closed_because = 'shutting down'
        self.hub.draining = True
        if self._broker.capabilities.shared:
            self._presence.hold()
        options = self.options
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + options.drain_timeout_s
        connections = list(self.hub.connections.values())
        for start in range(0, len(connections), options.drain_batch):
            if start:
                # NOTE: half to one and a half intervals, so that several processes
                #   that drain together do not beat together.
                pause_s = options.drain_interval_s * (0.5 + random.random())
                await asyncio.sleep(max(0.0, min(pause_s, deadline_s - loop.time())))
            for connection in connections[start : start + options.drain_batch]:
                connection.shutdown()
        _logger.info('drained %d connections', len(connections))

    async def close(self) -> None:
        """Close everything; idempotent."""
        if self._starting is not None and self._status == 'new':
            self._starting.cancel()
            await asyncio.wait([self._starting])
        await self.drain()
        if self._status == 'closed':
            return
        drained, self._status = self._status == 'draining', 'closed'
        if drained:
            await self.nodes.goodbye()
        for connection in list(self.hub.connections.values()):
            connection.shutdown()
        for endpoint in self._endpoints:
            endpoint.heartbeat.close()
        await self.hub.close()
        await self._broker.close()
        self._loop = None

    async def process_startup(self, scope: Any, event: Any) -> None:
        """Start with the application (Falcon middleware)."""
        state = scope.get('state')
        try:
            self._reopen()
            await self._ready()
        except ChannelsError as ex:
            if state is not None:
                state[START_ERROR] = f'Channels cannot start: {ex}'
            # NOTE: Falcon sends the traceback to the server, which logs it: the less of
            #   it, the sooner people find the last line.
            raise ex.with_traceback(None) from None
        # NOTE: at `process_shutdown` a server has closed all connections already.
        if state is not None:
            if state.get(WORKERS, 1) > 1:
                self.nodes.warn_of_others()
            state.setdefault(DRAIN_HOOKS, []).append(self.drain)

    async def process_shutdown(self, scope: Any, event: Any) -> None:
        """Drain and close with the application (Falcon middleware)."""
        await self.close()
