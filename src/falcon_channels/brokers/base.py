"""The broker contract: what every broker promises, and what breaks without it.

A broker orders the publications of each channel, stores them for as long as the
channel's options say, and carries them to every process that asked for the channel.
The hub of a process is its only user. `falcon_channels.testing.BrokerContract` checks
every promise on this page against any implementation.

Words: a *log* is what a broker keeps of one channel. A *position* is a place in it.
To *announce* is to call the receiver of every process that subscribed.

Order and atomicity
    1. Append and announce are one atomic step per channel. Two publications of one
       channel are announced everywhere in the order of their offsets, without gaps
       and without repeats, whichever processes published them. Without it two
       subscribers see two histories, and recovery hands out a third.
    2. Offsets count 1, 2, 3 ... within an epoch. A channel whose `StreamSettings.size`
       is 0 has no log: its publications have offset 0 and the epoch ``''``, they are
       announced in the order of the calls of one process, and nothing is promised
       about the order between processes.
    3. A publication is announced to the publishing process as well, by the same way,
       and not delivered to it by a short cut: all subscribers see one order.

Epochs
    4. Another log has another epoch, and an epoch is never used again: after the log
       was lost, removed with its counter, or forgotten, the next one is new. Whoever
       may have lost a tail of a log (a fail-over to a replica that lagged) starts
       a new epoch. Without it a client is told that it recovered when it did not.
    5. An epoch survives a restart where the store does.

Calls
    6. `publish` returns after the publication is stored as safely as this broker
       ever stores (in memory: at once; in a database: committed). When it raises
       `BrokerUnavailableError`, the publication may have been stored or not.
    7. The same idempotency key on the same channel within its time is stored once:
       the second call returns the position of the first and ``duplicate=True``, also
       when the two calls race, and also after a `BrokerUnavailableError`.
    8. Every call ends: each has a deadline inside the broker and raises
       `BrokerUnavailableError` after it. No call blocks the event loop.
    9. Calls may be cancelled. A cancelled publish was stored or was not; nothing else
       is harmed.

Subscriptions
    10. `subscribe` returns a position. From then on every publication after that
        position is announced to this process. Some of it may be announced before the
        call returns, and so may some at or before the position: the hub compares
        offsets. Without "subscribe, then position" publications fall between.
    11. After `unsubscribe` has returned nothing more is announced for the channel.
    12. A channel stays subscribed while the link is lost.

Losing the link
    13. The broker notices in bounded time that its link is lost, half-open, or alive
        but detached, and calls `Receiver.on_link_lost` once. When it is back and all
        subscriptions are again in place, it calls `Receiver.on_link_restored` once,
        and announces on from there. It does not replay: the hub then reads what it
        missed from the log, once per channel. A broker in this process never calls
        either.

Names
    14. Channel names are opaque text of 1 to 255 bytes of UTF-8. They go into keys,
        file names, subjects and identifiers only in an encoding under which no two
        names meet, none is a pattern, and none ends the surrounding syntax.

Limits and ends
    15. What a broker keeps is bounded: logs by size and age, idempotency keys, presence
        and revocations by their time.
    16. `close` may be called twice, at any time, and returns within seconds. No call
        of the receiver follows it.
    17. What a broker cannot do it says in `capabilities`. Options that ask for more are
        refused when they are given, with `CapabilityError`, and not when called.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple
from typing import Protocol

import msgspec

from falcon_channels.options import ChannelOptions
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import Publication


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker can do.

    Attributes:
        history: Keeps logs, so that channels may have history and recovery.
        presence: Knows who is subscribed.
        durable: Logs and epochs survive the end of all processes.
        shared: Several processes can use one store.
        transactions: `Broker.publish` takes the application's own `connection`.
        immediate_reads: `Broker.history` waits for nothing, so that whoever reads need
            not share the read with others.
    """

    history: bool = True
    presence: bool = True
    durable: bool = False
    shared: bool = False
    transactions: bool = False
    immediate_reads: bool = False


class StreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How long a broker keeps what, for one channel.

    Attributes:
        size: How many publications the log holds at most; 0 for no log.
        ttl_s: Age in seconds after which a publication leaves the log, or ``None``.
        meta_ttl_s: Seconds without a publication after which the log may be forgotten
            with its counter and epoch, or ``None``.
        idempotency_ttl_s: Seconds for which an idempotency key is remembered.
    """

    size: int = 0
    ttl_s: float | None = None
    meta_ttl_s: float | None = 30 * 86400.0
    idempotency_ttl_s: float = 300.0

    @classmethod
    def of(cls, options: ChannelOptions) -> StreamSettings:
        """Return the settings that the options of a channel ask for."""
        return cls(
            size=options.history_size,
            ttl_s=options.history_ttl_s,
            meta_ttl_s=options.meta_ttl_s,
            idempotency_ttl_s=options.idempotency_ttl_s,
        )


class PublishResult(NamedTuple):
    """What became of a publish.

    Attributes:
        position: Where the publication stands; `NO_POSITION` without history.
        duplicate: Whether the idempotency key had been used: `position` is then that
            of the first publication.
    """

    position: Position
    duplicate: bool = False


class PresenceEntry(NamedTuple):
    """One connection in one channel."""

    channel: str
    info: ClientInfo


class PresenceChange(NamedTuple):
    """A presence entry that ended.

    Attributes:
        channel: Where.
        info: Who.
        last: Whether it was the last entry of that user in the channel.
    """

    channel: str
    info: ClientInfo
    last: bool


class BrokerReceiver(Protocol):
    """What a broker calls in the hub's event loop. No method blocks or raises."""

    def on_publication(
        self, channel: str, publication: Publication, epoch: str
    ) -> None:
        """Take a publication of a subscribed channel."""

    def on_signal(self, channel: str, signal: bytes) -> None:
        """Take a signal of a subscribed channel."""

    def on_control(self, message: bytes) -> None:
        """Take a control message; every process gets every one."""

    def on_link_lost(self) -> None:
        """Learn that announcements no longer arrive."""

    def on_link_restored(self) -> None:
        """Learn that announcements arrive again, and that some were missed."""


class Broker(abc.ABC):
    """Orders, stores and carries publications; the module's page is the contract."""

    capabilities: Capabilities

    @abc.abstractmethod
    async def start(self, receiver: BrokerReceiver) -> None:
        """Connect, and call `receiver` from now on; called once, in its event loop.

        Raises:
            BrokerUnavailableError: The store cannot be reached or is of a version
                that this broker does not know; the message says what to do.
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """Let go of everything; idempotent and bounded in time."""

    @abc.abstractmethod
    async def publish(
        self,
        channel: str,
        publication: Publication,
        settings: StreamSettings,
        *,
        idempotency_key: str | None = None,
        connection: Any = None,
    ) -> PublishResult:
        """Append to the log and announce, atomically.

        Args:
            channel: Where.
            publication: Its `offset` is ignored and given out here, and so is
                `time_ms` where it is 0.
            settings: How long to keep it.
            idempotency_key: 1 to 255 bytes of UTF-8; see promise 7.
            connection: The application's own database connection, where
                `capabilities.transactions`; delivered when it commits.

        Raises:
            BrokerUnavailableError: Not known whether it was stored; call again with
                the same idempotency key.
        """

    @abc.abstractmethod
    async def subscribe(self, channel: str, settings: StreamSettings) -> Position:
        """Announce `channel` to this process; return a position (promise 10).

        Called at most once per channel until `unsubscribe`.
        """

    @abc.abstractmethod
    async def unsubscribe(self, channel: str) -> None:
        """Announce `channel` no more to this process."""

    @abc.abstractmethod
    async def history(
        self,
        channel: str,
        settings: StreamSettings,
        *,
        since: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> HistoryPage:
        """Read the log, and its top at the same moment.

        Args:
            channel: Which.
            settings: As for `publish`: they bound what is still in the log.
            since: Only offsets above this one; with `reverse` only those below.
            limit: At most so many; 0 reads the position only; ``None``: all.
            reverse: Newest first.
        """

    @abc.abstractmethod
    async def remove_history(self, channel: str) -> None:
        """Empty the log; its epoch and counter stay."""

    @abc.abstractmethod
    async def signal(self, channel: str, signal: bytes) -> None:
        """Announce something that is neither stored nor counted (join and leave)."""

    @abc.abstractmethod
    async def control(self, message: bytes) -> None:
        """Send a control message to every process, this one too."""

    @abc.abstractmethod
    async def add_presence(
        self, entries: Sequence[PresenceEntry], ttl_s: float
    ) -> list[bool]:
        """Add entries, or refresh those that are there, for `ttl_s` seconds.

        Returns:
            For each entry whether it is the first of its user in the channel.
        """

    @abc.abstractmethod
    async def remove_presence(self, channel: str, client: str) -> PresenceChange | None:
        """Remove the entry of a connection; ``None`` where there was none."""

    @abc.abstractmethod
    async def presence(self, channel: str) -> Mapping[str, ClientInfo]:
        """Return who is there: connection ids to infos, expired entries left out."""

    async def has_user(self, channel: str, user: str) -> bool:
        """Return whether a user has an entry in a channel, in whatever process.

        Asked after each word that a user left; here it reads the whole channel, and a
        broker that can look for one user does that.
        """
        there = await self.presence(channel)
        return any(info.user == user for info in there.values())

    @abc.abstractmethod
    async def expire_presence(self, limit: int) -> list[PresenceChange]:
        """Remove at most `limit` expired entries; each is returned to one caller."""

    @abc.abstractmethod
    async def revoke(self, channel: str, user: str, ttl_s: float) -> None:
        """Remember for `ttl_s` seconds that `user` may not subscribe; 0 forgets it."""

    @abc.abstractmethod
    async def is_revoked(self, channel: str, user: str) -> bool:
        """Return whether `revoke` holds."""
