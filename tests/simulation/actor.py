"""A simulated device: it subscribes, disconnects, returns, and checks all it gets."""

from __future__ import annotations

from typing import Any
from typing import TYPE_CHECKING

from falcon_channels.access.subscribing import SubscribeOptions
from falcon_channels.protocol.deltas import DeltaPublication
from falcon_channels.protocol.deltas import Patch
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.testing.client import Event
from falcon_channels.testing.client import Received
from falcon_channels.testing.client import SimulatedClient
from falcon_channels.testing.client import Subscribed
from falcon_channels.testing.client import Unsubscribed

if TYPE_CHECKING:
    from simulation.world import World


class DeltaClient(SimulatedClient):
    """A client that asks for deltas in all its channels."""

    def _options(self, since: Position | None, data: Any) -> SubscribeOptions:
        return super()._options(since, data)._replace(delta=True)


class Actor:
    """A device of a user. It keeps its positions when its connection ends.

    Attributes:
        name: Name in the trace.
        positions: Its position in each channel with a log.
        live: Channels that it is subscribed to, according to the events it got.
        places: Index in `Store.truth` of the last publication, in channels without
            a log.
        breaks: Value of `World.breaks` at the start of each subscription.
        delta: Whether it asks for deltas.
        bases: The payload that it received last, by channel. An SDK keeps it when its
            connection ends.
        seen: Users that are present by the joins and leaves that arrived, by channel.
        received: Number of publications that arrived.
    """

    def __init__(
        self, world: World, name: str, user: str, *, delta: bool = False
    ) -> None:
        self.world = world
        self.delta = delta
        self.bases: dict[str, bytes] = {}
        self.name = name
        self.user = user
        self.client: SimulatedClient | None = None
        self.process = 0
        self.positions: dict[str, Position] = {}
        self.live: set[str] = set()
        self.places: dict[str, int] = {}
        self.breaks: dict[str, int] = {}
        self.seen: dict[str, dict[str, int]] = {}
        self.received = 0

    def fail(self, message: str) -> None:
        self.world.fail(f'{self.name}: {message}')

    # --- checks of the events --------------------------------------------------------

    def on_event(self, event: Event) -> None:
        channel = event.channel
        if isinstance(event, Subscribed):
            self._on_subscribed(event)
        elif isinstance(event, Unsubscribed):
            self.world.note(self.name, 'unsubscribed', channel, event.code)
            if channel not in self.live:
                self.fail(f'unsubscribed from {channel} twice')
            self.live.discard(channel)
        elif channel not in self.live:
            self.fail(f'{event} without a subscription')
        elif isinstance(event.item, Publication):
            self.received += 1
            self.world.note(self.name, channel, event.item.offset, event.item.data)
            self._check_delta(channel, event.item)
            getattr(self, '_on_' + channel.partition(':')[0])(event, event.item)
        else:
            self.world.note(self.name, channel, event.item.kind, event.item.info.user)
            users = self.seen.setdefault(channel, {})
            user, joined = event.item.info.user, event.item.kind == 'join'
            if channel.startswith('log'):
                users[user] = int(joined)
            else:
                users[user] = users.get(user, 0) + (1 if joined else -1)

    def _check_delta(self, channel: str, publication: Publication) -> None:
        """Check that a delta is made against what this device has."""
        if isinstance(publication, DeltaPublication) is not self.delta:
            self.fail(f'{channel} got {publication}, but delta is {self.delta}')
        elif isinstance(publication, DeltaPublication) and publication.patch:
            self.world.num_deltas += 1
            base = self.bases.get(channel)
            if base is None or publication.patch != Patch(base, publication.data):
                self.fail(f'{channel} got a delta that is not against {base!r}')
        self.bases[channel] = publication.data

    def _on_subscribed(self, event: Subscribed) -> None:
        channel, since, joined = event
        position = joined.position
        if joined.publications:
            # NOTE: the first one is sent whole, and the others are deltas.
            self.bases[channel] = joined.publications[-1].data
        self.world.note(
            self.name, 'subscribed', channel, position.offset, joined.recovered
        )
        if channel in self.live:
            self.fail(f'subscribed to {channel} twice')
        self.live.add(channel)
        self.places.pop(channel, None)
        self.seen.pop(channel, None)
        if not channel.startswith(('log', 'deep', 'state')):
            return
        if (since is None) != (joined.recovered is None):
            self.fail(f'{channel}: asked to recover {since}, but got {joined}')
        self.positions[channel] = position
        if channel.startswith('state'):
            for publication in joined.publications:
                self._check_stored(channel, position.epoch, publication)
            return
        if not joined.recovered:
            if joined.publications:
                self.fail(f'{channel} not recovered, but got {joined.publications}')
            return
        assert since is not None
        if since.epoch and since.epoch != position.epoch:
            self.fail(f'{channel} recovered {since} from another log: {position}')
        offset = since.offset
        for publication in joined.publications:
            self.received += 1
            if publication.offset != offset + 1:
                self.fail(f'{channel} recovered {publication.offset} after {offset}')
            offset = publication.offset
            self._check_stored(channel, position.epoch, publication)
        if offset != position.offset:
            self.fail(f'{channel} recovered up to {offset}, but position is {position}')

    def _check_stored(self, channel: str, epoch: str, publication: Publication) -> None:
        truth = self.world.store.truth[channel, epoch]
        offset = publication.offset
        if not 0 < offset <= len(truth) or truth[offset - 1].data != publication.data:
            self.fail(f'{channel} never stored {publication} in epoch {epoch}')

    def _on_log(self, event: Received, publication: Publication) -> None:
        position = self.positions[event.channel]
        if event.epoch != position.epoch:
            self.fail(f'{event} belongs to another log than {position}')
        if publication.offset != position.offset + 1:
            self.fail(f'{event.channel} got {publication.offset} after {position}')
        self._check_stored(event.channel, event.epoch, publication)
        self.positions[event.channel] = Position(publication.offset, event.epoch)

    _on_deep = _on_log

    def _on_state(self, event: Received, publication: Publication) -> None:
        position = self.positions[event.channel]
        if event.epoch == position.epoch and publication.offset < position.offset:
            self.fail(f'{event.channel} went back to {publication} from {position}')
        self._check_stored(event.channel, event.epoch, publication)
        self.positions[event.channel] = Position(publication.offset, event.epoch)

    def _on_plain(self, event: Received, publication: Publication) -> None:
        """Check the order, and that there is no gap while no link broke."""
        truth = self.world.store.truth[event.channel, '']
        place = self.world.store.places[publication.data]
        before = self.places.get(event.channel)
        if truth[place].data != publication.data:
            self.fail(f'{event.channel} never stored {publication}')
        if before is not None and place <= before:
            self.fail(f'{event.channel} got place {place} after {before}')
        if (
            before is not None
            and place != before + 1
            and event.channel.startswith('plain')
            and self.breaks[event.channel] == self.world.breaks
        ):
            self.fail(f'{event.channel} got place {place} after {before}: a gap')
        self.places[event.channel] = place

    _on_lossy = _on_plain

    # --- actions ---------------------------------------------------------------------

    def connect(self, process: int) -> None:
        self.process = process
        self.client = (DeltaClient if self.delta else SimulatedClient)(
            self.world.processes[process].channels,
            user=self.user,
            on_event=self.on_event,
        )

    def forget_connection(self) -> None:
        """Forget a connection that has ended; positions stay."""
        self.client = None
        self.live.clear()
        self.seen.clear()

    async def subscribe(self, channel: str, fresh: bool) -> Any:
        client = self.client
        assert client is not None
        since = None if fresh else self.positions.get(channel)
        if channel.startswith(('plain', 'lossy')):
            since = None
        if client.transport.backlog_bytes == 0 or channel not in self.breaks:
            # NOTE: with unread publications of a former subscription, its number of
            #   breaks still applies.
            self.breaks[channel] = self.world.breaks
        return await client.subscribe(channel, since)

    def unsubscribe(self, channel: str) -> None:
        assert self.client is not None
        self.client.unsubscribe(channel)
