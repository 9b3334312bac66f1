"""The hub: connections and subscriptions of this process, and the fan-out.

What reaches it, and in which order it leaves:

* The broker announces publications by `on_publication`. They wait in their channel's
  channel until the end of this turn of the event loop; then `FanOut` encodes what each
  channel gathered once per encoder and writes it to each subscriber. A publisher waits
  for none.
* Replies wait in `Connection.out` until the same moment, and leave before publications.
  Whatever changes who is subscribed flushes that channel first, so that a subscription
  gets what follows its reply and nothing else.
* `join` and `leave` are the only ways in and out of a channel. A join that was
  overtaken by a leave, or by the end of its connection, leaves nothing behind.

The hub never trusts that nothing was lost: see the page of `repair`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Coroutine
import logging
from typing import Any
from typing import NamedTuple

import msgspec

from falcon_channels.brokers.base import Broker
from falcon_channels.cluster.messages import decode_control
from falcon_channels.cluster.messages import DisconnectUser
from falcon_channels.cluster.messages import NodeMessage
from falcon_channels.cluster.messages import RefreshUser
from falcon_channels.cluster.messages import SubscribeUser
from falcon_channels.cluster.messages import UserMessage
from falcon_channels.errors import ClosedError
from falcon_channels.errors import UnsubscribedError
from falcon_channels.hub.channel_registry import ChannelRegistry
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.fanout import FanOut
from falcon_channels.hub.local_channel import ChannelState
from falcon_channels.hub.local_channel import LocalChannel
from falcon_channels.hub.local_channel import stream_settings as stream_settings
from falcon_channels.hub.repair import Repairs
from falcon_channels.hub.shared_encodings import SharedEncodings
from falcon_channels.hub.shared_reads import SharedReads
from falcon_channels.hub.subscription import Subscription
from falcon_channels.hub.subscription import SubscriptionState as State
from falcon_channels.metrics import Counters
from falcon_channels.options import ChannelOptions
from falcon_channels.options import NodeOptions
from falcon_channels.protocol import recovery
from falcon_channels.publication import approximate_size_bytes
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.publication import Signal

_logger = logging.getLogger('falcon_channels')

#: Unsubscribe code: what the client missed is not known; it may subscribe again.
INSUFFICIENT_STATE = 2500

#: How often a join reads the log again before it gives up.
_ATTEMPTS = 5
#: How long a join waits for the repair of its channel before it reads again.
_REPAIR_TIMEOUT_S = 5.0
#: How long responders may take that are told of an end, when all ends.
_RESPONDERS_TIMEOUT_S = 5.0


class Joined(NamedTuple):
    """What a subscription begins with.

    Attributes:
        position: Where it stands, after `publications`.
        publications: What it missed, in order.
        recovered: Whether it got all it missed; ``None`` where it did not ask.
        size_bytes: About how many bytes `publications` are on their way to a client.
    """

    position: Position
    publications: list[Publication]
    recovered: bool | None
    size_bytes: int = 0


class Hub:
    """Connections and subscriptions of this process; see the module's page.

    Args:
        broker: Started and closed by the owner.
        options: Limits.
    """

    def __init__(self, broker: Broker, options: NodeOptions) -> None:
        self.broker = broker
        self.options = options
        self.counters = Counters()
        self.connections: dict[str, Connection] = {}
        self._by_user: dict[str, dict[Connection, None]] = {}
        #: Called with each message from process to process; `Nodes` listens here.
        self.on_node_message: Callable[[NodeMessage], None] = _ignore
        #: Called with each connection to subscribe from here.
        self.on_subscribe_user: Callable[[Connection, SubscribeUser], None] = _ignore
        #: Whether announcements of the broker do not arrive now.
        self.link_lost = False
        #: Whether no connection is taken any more.
        self.draining = False
        #: Called with each subscription that has ended; presence listens here.
        self.on_left: Callable[[Subscription], None] = _ignore
        self._opened = ChannelRegistry(
            broker, options, self._on_open, lambda: self._repairs.links
        )
        self._channels = self._opened.by_channel
        self._reads = SharedReads(broker)
        #: What clients that come back together recover, and how it is encoded.
        self.shared_encodings = SharedEncodings()
        self._fan_out = FanOut(self._channels, self.counters, options)
        self._repairs = Repairs(
            self._channels,
            broker,
            self._fan_out,
            self.counters,
            self.spawn,
            self._give_up,
        )
        #: Called by connections that have something to write.
        self.on_output = self._fan_out.on_output
        self._tasks: set[asyncio.Task[Any]] = set()
        self._graceful: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    # --- life ------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._fan_out.start()
        self.spawn(self._opened.keep_house(), 'housekeeping')
        if self.options.position_check_s is not None:
            self.spawn(
                self._repairs.check_positions(self.options.position_check_s),
                'position check',
            )

    async def close(self) -> None:
        """Cancel every task of the hub; connections are the owner's.

        Responders that are told of the end of a subscription have a little time.
        """
        self._closed = True
        self._opened.closed = True
        if self._graceful:
            await asyncio.wait(list(self._graceful), timeout=_RESPONDERS_TIMEOUT_S)
        await self._reads.close()
        self.shared_encodings.clear()
        tasks = [*self._tasks, *self._opened.changing.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fan_out.close()

    def spawn(
        self, coroutine: Coroutine[Any, Any, Any], name: str, graceful: bool = False
    ) -> asyncio.Task[Any] | None:
        """Run a task that the hub owns; one that fails is reported, never lost.

        Args:
            coroutine: What to run.
            name: For logs.
            graceful: Whether `close` lets it end by itself, for a few seconds.

        Returns:
            The task, or ``None`` where the hub is closed.
        """
        if self._closed or self._loop is None:
            coroutine.close()
            return None
        task = self._loop.create_task(coroutine, name=f'falcon_channels {name}')
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        if graceful:
            self._graceful.add(task)
            task.add_done_callback(self._graceful.discard)
        return task

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # NOTE: a defect of ours. What the task held up is unknown, so that all
            #   clients reconnect rather than wait for something that never comes.
            _logger.critical(
                'task %r died; all connections are closed',
                task.get_name(),
                exc_info=task.exception(),
            )
            for connection in list(self.connections.values()):
                connection.disconnect(3004, 'internal server error')

    # --- connections -----------------------------------------------------------------

    def add(self, connection: Connection) -> None:
        """Know a connection from now on.

        Raises:
            ClosedError: The hub is closed or drains, or the connection is over already.
        """
        if self._closed or self.draining:
            raise ClosedError('the hub is closed')
        if connection.closed:
            raise ClosedError('the connection has ended already')
        self.connections[connection.id] = connection
        self._by_user.setdefault(connection.user, {})[connection] = None

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has ended, and all its subscriptions."""
        if connection.closed:
            return
        connection.closed = True
        connection.out = None
        self.connections.pop(connection.id, None)
        self._forget_user(connection, connection.user)
        self._fan_out.forget(connection)
        for subscription in list(connection.subscriptions.values()):
            self.leave(subscription)
        connection.on_end()

    def channel_counts(self) -> dict[str, int]:
        """Return how many subscribers each channel has in this process."""
        return {
            name: local_channel.members
            for name, local_channel in self._channels.items()
            if local_channel.members
        }

    @property
    def num_users(self) -> int:
        """How many users have connections in this process; all anonymous are one."""
        return len(self._by_user)

    def connections_of(self, user: str) -> int:
        """Return how many connections of this process are a user's."""
        return len(self._by_user.get(user, ()))

    def on_writable(self, connection: Connection) -> None:
        """Give a connection that reads again what waits for it."""
        connection.on_all_read()
        self.catch_up(connection)

    def catch_up(self, connection: Connection) -> None:
        """Give the slow subscriptions of a connection what waits for them."""
        for subscription in list(connection.subscriptions.values()):
            if subscription.state is State.LAGGING:
                local_channel = self._channels[subscription.channel]
                items, epoch = local_channel.catch_up(subscription)
                self._fan_out.write_items(local_channel, subscription, items, epoch)

    def on_user(self, connection: Connection, before: str) -> None:
        """Learn that a connection is another user's now."""
        if connection.id in self.connections:
            self._forget_user(connection, before)
            self._by_user.setdefault(connection.user, {})[connection] = None

    def _forget_user(self, connection: Connection, user: str) -> None:
        alike = self._by_user.get(user)
        if alike is not None:
            alike.pop(connection, None)
            if not alike:
                del self._by_user[user]

    # --- joining and leaving ---------------------------------------------------------

    async def prepare(self, channel: str, options: ChannelOptions) -> None:
        """Open a channel at the broker, so that who joins it next need not wait.

        Raises:
            BrokerUnavailableError: The broker cannot be asked now.
            ClosedError: The hub is closed.
        """
        self._opened.release(await self._opened.hold(channel, options))

    async def join(self, subscription: Subscription, since: Position | None) -> Joined:
        """Subscribe to a channel at the broker, and recover.

        Nothing is written to the connection: the caller does so before it next awaits,
        and so before any publication.

        Args:
            subscription: JOINING, and in its connection's `subscriptions`.
            since: Where the client stands, or ``None`` where it begins anew.

        Raises:
            UnsubscribedError: It was ended meanwhile.
            BrokerUnavailableError: The broker cannot be asked now.
        """
        options = subscription.route.options
        local_channel = await self._opened.hold(subscription.channel, options)
        try:
            mode = options.recovery_mode
            if since is None or mode == 'off':
                joined = self._join_live(local_channel, subscription, since is not None)
            elif mode == 'latest':
                joined = await self._join_latest(local_channel, subscription)
            else:
                joined = await self._join_recovering(local_channel, subscription, since)
        finally:
            local_channel.joining.pop(subscription, None)
            self._opened.release(local_channel)
        # NOTE: not held against the client: it asked for it, and has to read it first.
        subscription.connection.granted_bytes += joined.size_bytes
        if joined.recovered is not None:
            if joined.recovered:
                self.counters.recovered += 1
            else:
                self.counters.not_recovered += 1
        return joined

    def leave(self, subscription: Subscription) -> None:
        """End a subscription; the caller tells the client where it has to know."""
        connection = subscription.connection
        if connection.subscriptions.get(subscription.channel) is subscription:
            del connection.subscriptions[subscription.channel]
        if subscription.ended:
            return
        local_channel = self._channels.get(subscription.channel)
        if local_channel is None:
            subscription.state = State.ENDED
        else:
            local_channel.remove(subscription)
            self._opened.note_idle(local_channel)
        self.on_left(subscription)

    def delivered(self, subscription: Subscription) -> Position | None:
        """Return up to where a subscription was given its channel.

        Returns:
            ``None`` while it joins, or does not keep up.
        """
        local_channel = self._channels.get(subscription.channel)
        if local_channel is None:
            return None
        position = local_channel.position
        if subscription.state is State.AHEAD:
            return Position(subscription.offset, position.epoch)
        if subscription.state is not State.LIVE:
            return None
        for item in local_channel.batch:
            if isinstance(item, Publication) and item.offset:
                return Position(item.offset - 1, position.epoch)
        return position

    def unsubscribe(self, subscription: Subscription, code: int, reason: str) -> None:
        """End a subscription from this side, and tell the client."""
        if subscription.ended:
            return
        joining = subscription.state is State.JOINING
        subscription.end = code, reason
        self.leave(subscription)
        if not joining:
            subscription.connection.on_unsubscribed(subscription, code, reason)

    def _join_live(
        self, local_channel: LocalChannel, subscription: Subscription, asked: bool
    ) -> Joined:
        self._must_go_on(subscription)
        self._fan_out.flush_channel(local_channel)
        local_channel.add(subscription)
        return Joined(local_channel.position, [], False if asked else None)

    async def _join_latest(
        self, local_channel: LocalChannel, subscription: Subscription
    ) -> Joined:
        settings = stream_settings(local_channel.options)
        for _ in range(_ATTEMPTS):
            self._fan_out.flush_channel(local_channel)
            local_channel.keep_for(subscription)
            page = await self._reads.history(
                local_channel.channel, settings, limit=1, reverse=True
            )
            self._must_go_on(subscription)
            if page.position.epoch != local_channel.position.epoch:
                await self._same_log(local_channel)
                continue
            self._fan_out.flush_channel(local_channel)
            _, found, position = recovery.recover_latest(page)
            kept = subscription.kept
            if kept and kept[-1][0].offset > position.offset:
                found, position = [kept[-1][0]], local_channel.position
            local_channel.add(subscription, position.offset)
            size_bytes = sum(map(approximate_size_bytes, found))
            return Joined(position, found, bool(found), size_bytes)
        return self._join_live(local_channel, subscription, True)

    async def _same_log(self, local_channel: LocalChannel) -> None:
        """Wait until a local_channel stands in the log that the broker has now."""
        if local_channel.state is ChannelState.LIVE:
            self._repairs.begin(local_channel)
        await self._repairs.wait(local_channel, _REPAIR_TIMEOUT_S)

    async def _join_recovering(
        self, local_channel: LocalChannel, subscription: Subscription, since: Position
    ) -> Joined:
        settings = stream_settings(local_channel.options)
        for _ in range(_ATTEMPTS):
            self._fan_out.flush_channel(local_channel)
            local_channel.keep_for(subscription)
            page = await self._reads.history(
                local_channel.channel,
                settings,
                since=since.offset,
                limit=local_channel.options.recovery_limit,
            )
            self._must_go_on(subscription)
            if page.position.epoch != local_channel.position.epoch:
                await self._same_log(local_channel)
                continue
            kept = subscription.kept
            if kept is None:
                continue
            self._fan_out.flush_channel(local_channel)
            epoch = page.position.epoch
            live = [publication for publication, e in kept if e == epoch]
            found = recovery.recover(since, page, live)
            if found is None or found.position.offset < local_channel.position.offset:
                continue
            size_bytes = sum(map(approximate_size_bytes, found.publications))
            limit_bytes = local_channel.options.recovery_limit_bytes
            # SECURITY: a client that never reads, with one recovery after the other.
            too_much = size_bytes > limit_bytes or (
                subscription.connection.granted_bytes
                > max(limit_bytes, self.options.max_backlog_bytes)
            )
            if not found.recovered or too_much:
                return self._join_live(local_channel, subscription, True)
            local_channel.add(subscription, found.position.offset)
            return Joined(found.position, found.publications, True, size_bytes)
        return self._join_live(local_channel, subscription, True)

    def _must_go_on(self, subscription: Subscription) -> None:
        if subscription.ended or subscription.connection.closed:
            code, reason = subscription.end or (0, 'the connection has ended')
            raise UnsubscribedError(code, reason)

    def _on_open(self, local_channel: LocalChannel, gap: bool, links: int) -> None:
        if local_channel.batch:
            self._fan_out.mark(local_channel)
        # NOTE: what was missed while the link was lost may lie after its position.
        if gap or (links != self._repairs.links and local_channel.options.history_size):
            self._repairs.begin(local_channel)

    # --- what the broker announces ---------------------------------------------------

    def on_publication(
        self, channel: str, publication: Publication, epoch: str
    ) -> None:
        """Take a publication of a subscribed channel."""
        local_channel = self._channels.get(channel)
        if local_channel is None:
            return
        self.counters.publications += 1
        gap = local_channel.take(publication, epoch)
        if local_channel.batch:
            self._fan_out.mark(local_channel)
        if gap:
            self.counters.gaps += 1
            self._repairs.begin(local_channel)

    def on_signal(self, channel: str, signal: bytes) -> None:
        """Give a join or leave to the subscribers of a channel."""
        local_channel = self._channels.get(channel)
        if local_channel is None or local_channel.state is ChannelState.OPENING:
            return
        try:
            local_channel.batch.append(msgspec.msgpack.decode(signal, type=Signal))
        except msgspec.DecodeError as ex:
            self.counters.control_errors += 1
            _logger.error('signal in %r cannot be read: %s', channel, ex)
            return
        self._fan_out.mark(local_channel)

    def on_control(self, message: bytes) -> None:
        """Do what a control message asks of every process."""
        try:
            control = decode_control(message)
        except msgspec.DecodeError as ex:
            self.counters.control_errors += 1
            _logger.error('control message cannot be read: %s', ex)
            return
        if isinstance(control, NodeMessage):
            self.on_node_message(control)
            return
        for connection in list(self._by_user.get(control.user, ())):
            if control.client and control.client != connection.id:
                continue
            if control.session and control.session != connection.session:
                continue
            self._obey(connection, control)

    def _obey(self, connection: Connection, control: UserMessage) -> None:
        if isinstance(control, DisconnectUser):
            if connection.id not in control.spare:
                connection.disconnect(control.code, control.reason)
        elif isinstance(control, RefreshUser):
            connection.on_refresh(control.expired, control.expires_at, control.info)
        elif isinstance(control, SubscribeUser):
            self.on_subscribe_user(connection, control)
        else:
            for subscription in list(connection.subscriptions.values()):
                if control.channel in ('', subscription.channel):
                    self.unsubscribe(subscription, control.code, control.reason)

    def on_link_lost(self) -> None:
        """Learn that announcements no longer arrive."""
        self.link_lost = True
        self.counters.links_lost += 1
        _logger.error('the link to the broker is lost; subscribers wait')

    def on_link_restored(self) -> None:
        """Read what was missed, once per channel."""
        self.link_lost = False
        _logger.warning('the link to the broker is back; reading what was missed')
        self._repairs.begin_all()

    def _give_up(self, local_channel: LocalChannel) -> None:
        """End all subscriptions of a local_channel: what they missed is not known."""
        subscriptions = local_channel.subscriptions()
        local_channel.batch.clear()
        self.counters.insufficient_state += len(subscriptions)
        _logger.error(
            'publications of %r are lost; %d subscriptions end with insufficient state',
            local_channel.channel,
            len(subscriptions),
        )
        for subscription in subscriptions:
            self.unsubscribe(subscription, INSUFFICIENT_STATE, 'insufficient state')


def _ignore(*something: object) -> None:
    """Do nothing, where nobody listens."""
