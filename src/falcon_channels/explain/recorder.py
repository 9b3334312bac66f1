"""Decides what a node records about deliveries, and answers questions about it.

* The hub is observed only while there is something to record: a route with
  ``ChannelOptions(record_deliveries=True)``, or a user of `record_user`.
* Subscriptions are recorded in the channels of these routes, and those of these users.
  The channels need a history, because only then publications have offsets.
* Refused requests to subscribe are recorded in the same cases.
* The start of a connection is recorded only for these users.

The modules below hold the records: `connection_records`, `subscription_record`,
`batch_times`, `channel_records`, and `record_queue`, which forgets the oldest ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
import time

from falcon_channels.events import Event
from falcon_channels.explain.channel_records import ChannelRecords
from falcon_channels.explain.connection_records import ConnectionRecords
from falcon_channels.explain.fact_finder import FactFinder
from falcon_channels.explain.facts import ExplainQuestion
from falcon_channels.explain.facts import NodeRecords
from falcon_channels.explain.record_queue import RecordQueue
from falcon_channels.explain.subscription_record import facts_of
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.connection import Joined
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.connection import SubscriptionState as State
from falcon_channels.hub.hub import Hub
from falcon_channels.hub.local_channel import LocalChannel
from falcon_channels.options import ChannelOptions
from falcon_channels.parts import in_parts
from falcon_channels.publication import first_offset
from falcon_channels.publication import Newest
from falcon_channels.publication import Position

#: Largest number of characters of a client's epoch; an epoch of a broker is shorter.
_MAX_EPOCH = 64
#: Number of connections that are recorded without a pause, with their subscriptions.
_RECORDED_PART = 20


class DeliveryRecorder:
    """Records the deliveries of one node; see the module docstring.

    Args:
        hub: Hub of this node.
        max_bytes: Largest size of all records, in approximate bytes.
        max_users: Largest number of users that are recorded at the same time.
        find_options: Returns the options of a channel, or ``None``.
    """

    def __init__(
        self,
        hub: Hub,
        max_bytes: int,
        max_users: int,
        find_options: Callable[[str], ChannelOptions | None],
    ) -> None:
        self._hub = hub
        self._max_users = max_users
        self._find_options = find_options
        #: Timers that end the recording of users.
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._routes_since: float | None = None
        #: Recorded users, and the Unix times of the starts.
        self._users: dict[str, float] = {}
        self._stop_listening: Callable[[], None] | None = None
        queue = RecordQueue(max_bytes)
        self._connections = ConnectionRecords(queue)
        self._channels = ChannelRecords(queue, self._connections)
        self._finder = FactFinder(hub, queue, self._connections, self._channels)

    # --- switching it on and off -----------------------------------------------------

    def record_routes(self) -> None:
        """Record the channels whose route has ``record_deliveries=True``."""
        if self._routes_since is None:
            self._routes_since = time.time()
            self._switch()

    async def record_user(self, user: str, for_s: float) -> bool:
        """Record a user for a number of seconds; 0 ends this.

        Returns:
            ``False`` if too many users are recorded.
        """
        if for_s <= 0:
            self._stop_user(user)
            return True
        if user not in self._users and len(self._users) >= self._max_users:
            return False
        new = user not in self._users
        self._users.setdefault(user, time.time())
        self._set_timer(user, for_s)
        self._switch()
        if new:
            async for part in in_parts(
                self._hub.connections.of_user(user), _RECORDED_PART
            ):
                for connection in part:
                    # NOTE: the connection may have ended during a pause, or the
                    #   recording.
                    if connection.closed or connection.user not in self._users:
                        continue
                    self._record_connection(connection, opened_at=None)
        return True

    def recorded_users(self) -> dict[str, float]:
        """Return the recorded users, and the seconds for which they are recorded."""
        now_s = asyncio.get_running_loop().time()
        return {user: timer.when() - now_s for user, timer in self._timers.items()}

    def adopt_users(self, users: dict[str, float]) -> None:
        """Record the users of another node, unless they are recorded already."""
        for user, for_s in users.items():
            if user not in self._users:
                self._hub.tasks.spawn(self.record_user(user, for_s), 'record user')

    def close(self) -> None:
        """Stop to record. Nothing is observed any more."""
        self._routes_since = None
        for user in list(self._users):
            self._stop_user(user)
        self._switch()

    def _set_timer(self, user: str, for_s: float) -> None:
        before = self._timers.pop(user, None)
        if before is not None:
            before.cancel()
        loop = asyncio.get_running_loop()
        self._timers[user] = loop.call_later(for_s, self._stop_user, user)

    def _stop_user(self, user: str) -> None:
        if self._users.pop(user, None) is None:
            return
        self._timers.pop(user).cancel()
        for channel in self._channels.all():
            for subscription in channel.subscriptions_of(user):
                if not self._wants(subscription):
                    channel.stop(subscription)
        self._switch()

    def _switch(self) -> None:
        """Observe the hub if there is something to record."""
        wanted = self._routes_since is not None or bool(self._users)
        if wanted and self._stop_listening is None:
            self._hub.observe(self)
            self._stop_listening = self._hub.events.listen(self._on_event)
        elif not wanted and self._stop_listening is not None:
            for record in self._connections.all():
                connection = self._hub.connections.get(record.facts.id)
                if connection is not None:
                    record.on_recording_ended(connection)
            self._hub.observe(None)
            self._stop_listening()
            self._stop_listening = None

    def _wants(self, subscription: Subscription) -> bool:
        options = subscription.route.options
        if not options.history_size:
            # NOTE: publications without an offset cannot be told apart.
            return False
        return options.record_deliveries or subscription.user in self._users

    def _record_connection(
        self, connection: Connection, opened_at: float | None
    ) -> None:
        """Record a connection of a recorded user, with its subscriptions."""
        record = self._connections.get_or_add(connection, opened_at)
        self._connections.add_opening(record)
        for subscription in list(connection.subscriptions.values()):
            local_channel = self._hub.local_channel(subscription.channel)
            if (
                local_channel is None
                or not subscription.joined
                or not self._wants(subscription)
            ):
                continue
            channel = self._channels.get_or_add(subscription.channel)
            channel.attach(local_channel)
            if channel.is_running(subscription):
                continue
            delivered = self._hub.delivered(subscription)
            assert delivered is not None
            facts = facts_of(subscription, time.time(), delivered, from_start=False)
            channel.start(subscription, facts)
            if subscription.state is State.LAGGING:
                channel.on_lagging(subscription, delivered.offset)

    # --- called by the hub -----------------------------------------------------------

    def on_joined(
        self,
        local_channel: LocalChannel,
        subscription: Subscription,
        since: Position | Newest | None,
        joined: Joined,
    ) -> None:
        """Record the start of a subscription."""
        if not self._wants(subscription):
            return
        channel = self._channels.get_or_add(subscription.channel)
        channel.attach(local_channel)
        facts = facts_of(subscription, time.time(), joined.position)
        if isinstance(since, Position):
            facts.since = since.offset
            # SECURITY: the client chooses this text, and its size is not counted.
            epoch = since.epoch[:_MAX_EPOCH]
            facts.since_epoch = epoch or joined.position.epoch
        facts.recovered = joined.recovered
        facts.first = first_offset(joined.publications)
        channel.start(subscription, facts)

    def on_drained(self, connection: Connection) -> None:
        """Record that a client has read all pending output."""
        record = self._connections.get(connection.id)
        if record is not None:
            record.on_drained()

    def _on_event(self, event: Event) -> None:
        """Record what happens to connections, and refused requests."""
        if event.name == 'connection_opened':
            self._on_identified(event, time.time())
        elif event.name == 'connection_identified':
            record = self._connections.get(event.connection)
            if record is not None:
                self._connections.index(record, event.user)
            self._on_identified(event, None)
        elif event.name == 'connection_closed':
            record = self._connections.get(event.connection)
            if record is not None:
                record.on_closed(event)
        elif event.name == 'command_refused':
            self._on_refused(event)

    def _on_identified(self, event: Event, opened_at: float | None) -> None:
        if event.user not in self._users:
            return
        connection = self._hub.connections.get(event.connection)
        if connection is not None:
            self._record_connection(connection, opened_at)

    def _on_refused(self, event: Event) -> None:
        command = event.facts.get('command')
        if command not in ('subscribe', 'subscribe_user') or not event.channel:
            return
        options = self._find_options(event.channel)
        if options is None or not options.history_size:
            return
        if not options.record_deliveries and event.user not in self._users:
            return
        connection = self._hub.connections.get(event.connection)
        self._connections.add_refusal(event, connection)

    # --- questions -------------------------------------------------------------------

    async def facts(self, question: ExplainQuestion, node: str) -> NodeRecords:
        """Return what this node knows about a publication and a user."""
        return await self._finder.find(question, node, self._recorded_since(question))

    def _recorded_since(self, question: ExplainQuestion) -> float | None:
        times = []
        if question.user in self._users:
            times.append(self._users[question.user])
        options = self._find_options(question.channel)
        if (
            options is not None
            and options.record_deliveries
            and self._routes_since is not None
        ):
            times.append(self._routes_since)
        return min(times) if times else None
