"""Node: the parts of one process, which are started and stopped together."""

from __future__ import annotations

import asyncio
from contextvars import Context
from itertools import count
import logging
import os
import secrets
from typing import Literal

from falcon_channels.access.authorization import Authorizer
from falcon_channels.access.handshake import Handshake
from falcon_channels.access.late_publishing import LatePublisher
from falcon_channels.access.publishing import Publisher
from falcon_channels.access.reading import Reader
from falcon_channels.access.subscribing import Subscriber
from falcon_channels.append_queue import AppendQueue
from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import RouteSettings
from falcon_channels.brokers.timed import TimedBroker
from falcon_channels.brokers.urls import open_broker
from falcon_channels.chunk_rate import ChunkRate
from falcon_channels.cluster.cluster import Cluster
from falcon_channels.cluster.connections import ClusterConnections
from falcon_channels.cluster.dispatch import ControlDispatcher
from falcon_channels.cluster.info import ClusterInfo
from falcon_channels.cluster.stream_aborts import StreamAborts
from falcon_channels.cluster.user_commands import UserCommands
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import CapabilityError
from falcon_channels.errors import ClosedError
from falcon_channels.errors import EventLoopError
from falcon_channels.errors import UnknownChannelError
from falcon_channels.events import Event
from falcon_channels.events import Events
from falcon_channels.explain.explainer import Explainer
from falcon_channels.explain.recorder import DeliveryRecorder
from falcon_channels.hub.hub import Hub
from falcon_channels.hub.presence import PresenceKeeper
from falcon_channels.measurements import StoredMeasurements
from falcon_channels.operations import Operations
from falcon_channels.options import ChannelOptions
from falcon_channels.options import check_channel_limits
from falcon_channels.options import check_options
from falcon_channels.options import NodeOptions
from falcon_channels.options import warn_of_small_messages
from falcon_channels.origin import check_allowed_origins
from falcon_channels.parts import in_batches
from falcon_channels.routing import ChannelMatch
from falcon_channels.routing import ChannelRouter
from falcon_channels.timer_wheel import TimerWheel
from falcon_channels.transports.server_process import worker_count

_logger = logging.getLogger('falcon_channels')

#: Batches of streams are due at most this number of seconds late.
_BATCH_TICK_S = 0.005

Status = Literal['new', 'ok', 'link lost', 'draining', 'closed']


class Node:
    """The parts of one process: broker, hub, routes, presence, cluster and access.

    A node starts with the first call that needs it, in the event loop of that call. It
    belongs to that event loop until `close`. After that, `reopen` builds new parts and
    stores them in the attributes of the same node.

    Args:
        broker: URL of a broker, a `Broker`, or ``None`` for the memory of this process.
        options: Limits of this process.

    Raises:
        OptionsError: The URL or the options are wrong.

    Attributes:
        options: Limits of this process.
        broker: Orders, stores and carries publications.
        events: Tells what happens in this process, also after a new start.
        operations: Reports what this process does and how long it takes, also after a
            new start.
        hub: Connections, subscriptions and channels of this process.
        cluster: The nodes that share the broker; its ``id`` is new at every start.
        info: Counts of this node and of all nodes.
        connections: Descriptions of the connections of this node and of all nodes.
        stream_aborts: Informs the writers of all nodes that a stream was aborted.
        chunk_rate: Counts the chunks that streams of this node write.
        append_queue: Appends the batches of several streams together.
        batch_timers: Timers of the batches of streams.
        users: Commands about users, for all nodes.
        explainer: Explains deliveries over all nodes.
        handshake: Admits connections.
        subscriber: Subscribes connections.
        publisher: Publishes for the application and for clients.
        dispatcher: Applies commands about users to the connections of this process.
        reader: Reads history and presence for the application and for clients.
        timers: Timers of connections without an SDK.
    """

    def __init__(
        self,
        broker: str | Broker | None = None,
        options: NodeOptions | None = None,
    ) -> None:
        self.options = NodeOptions() if options is None else options
        check_options(self.options, NodeOptions)
        check_allowed_origins(self.options.allowed_origins)
        self.options.warn_of_small_batch()
        self._given_broker = broker
        self._is_started_by_app = False
        self.router = ChannelRouter()
        self.events = Events()
        self.operations = Operations()
        self._measurements: StoredMeasurements | None = None
        self._build(self._open_broker())

    def _open_broker(self) -> Broker:
        """Return the broker that was given, or a new one for the URL."""
        given = self._given_broker
        return given if isinstance(given, Broker) else open_broker(given)

    def _build(self, broker: Broker) -> None:
        """Build the parts that live from a start to `close`."""
        self.broker = broker
        operations = self.operations
        broker = TimedBroker(broker, operations)
        self.hub = Hub(broker, self.options, self.events, operations)
        self.cluster = Cluster(self.hub, broker, secrets.token_urlsafe(9))
        self.info = ClusterInfo(self.hub, self.cluster)
        self.connections = ClusterConnections(self.hub, self.cluster)
        self.stream_aborts = StreamAborts(self.cluster)
        self.users = UserCommands(
            broker, self.options, self.match, self.start, self.events
        )
        self._delivery_recorder = DeliveryRecorder(
            self.hub,
            self.options.max_record_bytes,
            self.options.max_recorded_users,
            self._find_options,
        )
        self.explainer = Explainer(
            self._delivery_recorder,
            self.cluster,
            broker,
            self.options,
            self.match,
            self.start,
        )
        if any(route.options.record_deliveries for route in self.router.routes):
            self._delivery_recorder.record_routes()
        self._presence = PresenceKeeper(self.hub, self._find_options)
        self.handshake = Handshake(
            self.hub,
            operations,
            self.options,
            self.start,
            lambda: self._is_started_by_app,
        )
        authorizer = Authorizer(broker, operations)
        self.subscriber = Subscriber(
            self.hub,
            authorizer,
            operations,
            self._presence,
            self.options,
            self.match,
        )
        self.publisher = Publisher(
            broker, self.match, self.match_now, operations, authorizer
        )
        self.chunk_rate = ChunkRate()
        self.append_queue = AppendQueue(self.publisher.append_all, self.chunk_rate)
        self.batch_timers = TimerWheel(_BATCH_TICK_S)
        self.reader = Reader(broker, authorizer, self.options, self.match)
        self.dispatcher = ControlDispatcher(
            self.hub,
            self.cluster.on_message,
            self.subscriber.subscribe_for_application,
            self.subscriber.withdraw,
        )
        self.hub.receiver.listen(self.dispatcher.receive)
        self.hub.listen(self.subscriber.on_left, self.subscriber.on_expiry_changed)
        self.timers = TimerWheel()
        self._starting: asyncio.Task[None] | None = None
        self._status: Status = 'new'
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Process in which the node was started.
        self._pid = 0
        self._draining = asyncio.Lock()
        self._closing = asyncio.Lock()

    # --- routes ----------------------------------------------------------------------

    def add_route(
        self,
        template: str,
        resource: object,
        options: ChannelOptions | None = None,
        *,
        suffix: str | None = None,
    ) -> None:
        """Implement `Channels.add_route`."""
        options = ChannelOptions() if options is None else options
        check_options(options, ChannelOptions)
        able = self.broker.capabilities
        if options.history_size and not able.history:
            raise CapabilityError(f'{type(self.broker).__name__} keeps no history')
        if options.presence and not able.presence:
            raise CapabilityError(f'{type(self.broker).__name__} has no presence')
        check_channel_limits(template, options, self.options)
        route = self.router.add(template, resource, options, suffix)
        if route.publishers != 'nobody':
            warn_of_small_messages(template, options, self.options)
        if options.record_deliveries:
            self._delivery_recorder.record_routes()
        if self._status != 'new':
            self._pass_routes_on()

    def _pass_routes_on(self) -> None:
        """Pass the routes to the broker, for programs that publish with its store."""
        self.broker.set_routes(
            [RouteSettings.of(*pair) for pair in zip(self.router.routes, count())]
        )

    async def match(self, channel: str) -> ChannelMatch:
        """Start the node if necessary, and find the route of a channel.

        Raises:
            ChannelNameError: The name is not a channel name.
            UnknownChannelError: No route matches.
            BrokerUnavailableError: The node cannot start now.
            ClosedError: The node is closed.
            EventLoopError: The node belongs to another event loop.
        """
        match = self.match_now(channel)
        if match is None:
            await self.start()
            match = self._match_route(channel)
        return match

    def match_now(self, channel: str) -> ChannelMatch | None:
        """Find the route of a channel without waiting.

        PERF: a publication to a node that has started needs no coroutine to find its
        route (benchmarks/centrifugo.py).

        Returns:
            ``None`` if the node may have to start first: use `match`.

        Raises:
            ChannelNameError: The name is not a channel name.
            UnknownChannelError: No route matches.
        """
        if self._status != 'ok' or asyncio.get_running_loop() is not self._loop:
            return None
        return self._match_route(channel)

    def _match_route(self, channel: str) -> ChannelMatch:
        match = self.router.find(channel, self.options.max_channel_bytes)
        if match is None:
            raise UnknownChannelError(channel)
        return match

    def _find_options(self, channel: str) -> ChannelOptions | None:
        match = self.router.match(channel)
        return None if match is None else match.route.options

    def measure(self) -> StoredMeasurements:
        """Return the measurements of this process, which begin with the first call."""
        if self._measurements is None:
            self._measurements = StoredMeasurements()
            self._measurements.attach(self.events, self.operations)
        return self._measurements

    def gauges(self) -> dict[str, float]:
        """Return the current values of `metrics.GAUGES`."""
        here = self.info.this_node()
        # NOTE: a copy, because an exporter of metrics may read from its own thread.
        connections = self.hub.connections.all()
        return {
            'connections': here.num_clients,
            'users': here.num_users,
            'channels': here.num_channels,
            'subscriptions': here.num_subs,
            'backlog_bytes': sum(
                connection.backlog_bytes for connection in connections
            ),
            'link_up': 0 if self.hub.receiver.link_lost else 1,
            'uptime_seconds': here.uptime,
        }

    # --- life ------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """State of the node, and whether the link to the broker is lost."""
        if self._status == 'ok' and self.hub.receiver.link_lost:
            return 'link lost'
        return self._status

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Event loop of the node, from the first start to `close`."""
        return self._loop

    @property
    def forked(self) -> bool:
        """Whether this process was forked after the node had started."""
        return self._loop is not None and self._pid != os.getpid()

    async def start_by_app(self) -> None:
        """Called when the application starts the node, and not the first call.

        Raises:
            ChannelsError: See `start`.
        """
        self._is_started_by_app = True
        await self.start()

    async def start(self) -> None:
        """Start the node, unless it has started.

        Raises:
            BrokerUnavailableError: The broker cannot be reached; the next call tries
                again.
            ClosedError: The node is closed.
            EventLoopError: The node belongs to another event loop.
        """
        if self._status == 'closed':
            raise ClosedError(
                'these channels are closed. In a script or a test, use them within '
                '`async with channels:`. Falcon stops middleware in reverse order: '
                'list `channels` before a middleware that uses it when it stops. A '
                'middleware that is listed before `channels` may only publish then'
            )
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not loop:
            raise EventLoopError
        if self._status in ('ok', 'draining'):
            return
        if self._starting is None:
            self._loop = loop
            self._pid = os.getpid()
            # NOTE: the first call may come from a request. The tasks of the node
            #   outlive the request. They must not see its context variables, or keep
            #   them in memory.
            self._starting = loop.create_task(
                self._start(), name='falcon_channels start', context=Context()
            )
        starting = self._starting
        try:
            await asyncio.shield(starting)
        except BrokerUnavailableError:
            if self._starting is starting:
                self._starting = self._loop = None
            raise
        except asyncio.CancelledError:
            if starting.cancelled():
                raise ClosedError('these channels are closed') from None
            raise

    async def _start(self) -> None:
        num_routes = len(self.router.routes)
        self._pass_routes_on()
        await self.broker.start(self.hub.receiver)
        if len(self.router.routes) > num_routes:
            self._pass_routes_on()
        self.hub.start()
        self._presence.start()
        self._status = 'ok'
        if worker_count() > 1:
            self.cluster.warn_of_several_processes()
        self.events.tell(Event('node_started'))
        await self.cluster.hello()

    def reopen(self) -> None:
        """After `close`, build new parts, so that the node can start again.

        Raises:
            ClosedError: The broker was given as an object, which starts only once.
        """
        if self._status != 'closed':
            return
        if isinstance(self._given_broker, Broker):
            raise ClosedError(
                'these channels are closed, and can start again only if the broker '
                'was given as a URL'
            )
        earlier = self.cluster
        self._build(self._open_broker())
        self.cluster.adopt_handlers(earlier)

    def allow_late_publications(self) -> None:
        """After `close`, let the application publish until it has stopped.

        This has no effect if the broker was given as an object, because it starts only
        once.
        """
        if self._status == 'closed' and not isinstance(self._given_broker, Broker):
            self.publisher = LatePublisher(
                self._open_broker, self._match_route, self.operations
            )

    def abandon(self) -> None:
        """Drop all parts of the node, whose event loop has ended without `close`.

        The links of the broker are not closed. `reopen` creates new parts.

        Raises:
            EventLoopError: The event loop has not ended. Use `close`.
        """
        if self._loop is None:
            return
        if not self._loop.is_closed():
            raise EventLoopError
        self._delivery_recorder.close()
        self._status = 'closed'
        self._loop = None

    async def drain(self) -> None:
        """Implement `Channels.drain`."""
        async with self._draining:
            await self._drain()

    async def _drain(self) -> None:
        if self._status != 'ok':
            return
        self._status = 'draining'
        self.hub.start_draining()
        self.events.tell(Event('node_draining'))
        if self.broker.capabilities.shared:
            self._presence.abandon()
        options = self.options
        connections = self.hub.connections.all()
        async for batch in in_batches(
            connections,
            options.drain_batch,
            interval_s=options.drain_interval_s,
            timeout_s=options.drain_timeout_s,
        ):
            for connection in batch:
                connection.shutdown()
        _logger.info('drained %d connections', len(connections))

    async def close(self) -> None:
        """Close all connections and the broker; idempotent."""
        if self._starting is not None and self._status == 'new':
            self._starting.cancel()
            await asyncio.wait([self._starting])
        await self.drain()
        async with self._closing:
            if self._status == 'closed':
                return
            if self._status == 'draining':
                await self.cluster.goodbye()
            for connection in self.hub.connections.all():
                connection.shutdown()
            # NOTE: responders that still run may publish until the hub has closed.
            await self.hub.close()
            self.timers.close()
            self._delivery_recorder.close()
            self._status = 'closed'
            await self.broker.close()
            self._loop = None
            self.events.tell(Event('node_closed'))
