"""A user's device: it subscribes, goes away, comes back, and believes nothing."""

from __future__ import annotations

from typing import Any
from typing import TYPE_CHECKING

from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.testing.client import Event
from falcon_channels.testing.client import Received
from falcon_channels.testing.client import SimulatedClient
from falcon_channels.testing.client import Subscribed
from falcon_channels.testing.client import Unsubscribed

if TYPE_CHECKING:
    from simulation.world import World


class Actor:
    """One device; it keeps its positions when its connection ends.

    Attributes:
        name: For the trace.
        positions: Where it stands, in each channel with a log.
        live: Channels that it has been subscribed to, by its own knowledge.
    """

    def __init__(self, world: World, name: str, user: str) -> None:
        self.world = world
        self.name = name
        self.user = user
        self.client: SimulatedClient | None = None
        self.process = 0
        self.positions: dict[str, Position] = {}
        self.live: set[str] = set()
        #: Last place in the truth, for channels without a log.
        self.places: dict[str, int] = {}
        #: Count of broken links when the subscription began.
        self.breaks: dict[str, int] = {}
        #: Who is there, by the joins and leaves that arrived.
        self.seen: dict[str, dict[str, int]] = {}
        self.received = 0

    def fail(self, what: str) -> None:
        self.world.fail(f'{self.name}: {what}')

    # --- what arrives ----------------------------------------------------------------

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
            getattr(self, '_on_' + channel.partition(':')[0])(event, event.item)
        else:
            self.world.note(self.name, channel, event.item.kind, event.item.info.user)
            users = self.seen.setdefault(channel, {})
            user, joined = event.item.info.user, event.item.kind == 'join'
            if channel.startswith('log'):
                users[user] = int(joined)
            else:
                users[user] = users.get(user, 0) + (1 if joined else -1)

    def _on_subscribed(self, event: Subscribed) -> None:
        channel, since, joined = event
        position = joined.position
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
            self.fail(f'{channel} asked from {since}, answered {joined}')
        self.positions[channel] = position
        if channel.startswith('state'):
            for publication in joined.publications:
                self._is_true(channel, position.epoch, publication)
            return
        if not joined.recovered:
            if joined.publications:
                self.fail(f'{channel} not recovered, but {joined.publications}')
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
            self._is_true(channel, position.epoch, publication)
        if offset != position.offset:
            self.fail(f'{channel} recovered up to {offset}, says {position}')

    def _is_true(self, channel: str, epoch: str, publication: Publication) -> None:
        truth = self.world.store.truth[channel, epoch]
        offset = publication.offset
        if not 0 < offset <= len(truth) or truth[offset - 1].data != publication.data:
            self.fail(f'{channel} has no {publication} in {epoch}')

    def _on_log(self, event: Received, publication: Publication) -> None:
        position = self.positions[event.channel]
        if event.epoch != position.epoch:
            self.fail(f'{event} is of another log than {position}')
        if publication.offset != position.offset + 1:
            self.fail(f'{event.channel} got {publication.offset} after {position}')
        self._is_true(event.channel, event.epoch, publication)
        self.positions[event.channel] = Position(publication.offset, event.epoch)

    _on_deep = _on_log

    def _on_state(self, event: Received, publication: Publication) -> None:
        position = self.positions[event.channel]
        if event.epoch == position.epoch and publication.offset < position.offset:
            self.fail(f'{event.channel} went back to {publication} from {position}')
        self._is_true(event.channel, event.epoch, publication)
        self.positions[event.channel] = Position(publication.offset, event.epoch)

    def _on_plain(self, event: Received, publication: Publication) -> None:
        """Order always, and no gap while no link broke."""
        truth = self.world.store.truth[event.channel, '']
        place = self.world.store.places[publication.data]
        before = self.places.get(event.channel)
        if truth[place].data != publication.data:
            self.fail(f'{event.channel} has no {publication}')
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

    # --- what it does ----------------------------------------------------------------

    def connect(self, process: int) -> None:
        self.process = process
        self.client = SimulatedClient(
            self.world.processes[process].channels,
            user=self.user,
            on_event=self.on_event,
        )

    def forget_connection(self) -> None:
        """Be disconnected, by whomever."""
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
            # NOTE: while older publications wait unread, the older count holds.
            self.breaks[channel] = self.world.breaks
        return await client.subscribe(channel, since)

    def unsubscribe(self, channel: str) -> None:
        assert self.client is not None
        self.client.unsubscribe(channel)
