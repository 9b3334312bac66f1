"""The broker contract: the promises of every broker, and the reason for each.

A broker orders the publications of each channel. It stores them as long as the options
of the channel say, and carries them to every process that has subscribed to the
channel. Only the hub of a process subscribes to channels, and receives announcements.
Other parts of the library publish, read the log, and send control messages.

This module is the specification. The test suites `contract`, `presence_contract` and
`shared_contract` in `falcon_channels.testing` check any implementation against it.

Terms:

* A *log* is what a broker stores of one channel: its newest publications, a counter of
  offsets, and an epoch. A *position* is an offset and an epoch.
* To *announce* is to call the `BrokerReceiver` of every process that has subscribed to
  the channel.
* The *link* is the connection on which announcements reach this process.

Order and atomicity
    1. Append and announce are one atomic step per channel. Every process gets the
       publications of a channel in the order of their offsets, without gaps and without
       duplicates. This holds even if several processes publish at the same time.
       Otherwise two subscribers would see two different histories, and a recovering
       client a third one.
    2. The offsets of an epoch are 1, 2, 3 ... A channel whose `LogSettings.size` is
       0 has no log. Its publications have offset 0 and the epoch ``''``. They are
       announced in the order in which one process has published them. The order
       between processes is undefined. The same holds for a `publish` with
       `skip_history` to a channel that has a log. It does not change the log.
    3. A publication is announced to the publishing process in the same way as to the
       others, and not directly. Otherwise its subscribers would see another order.

Epochs
    4. A new log has a new epoch, and no epoch is ever used again. A log is new after it
       was lost, after it was removed with its counter, and after its time was over. A
       broker that may have lost the newest publications starts a new epoch as well, for
       example after a fail-over to a replica that was behind. Otherwise a client
       would be told that it has recovered everything, although it has not.
    5. An epoch survives a restart if the store survives it.

Calls
    6. `Broker.publish` returns after the publication is stored as safely as this broker
       can store it: in memory immediately, in a database after the commit. If it raises
       `BrokerUnavailableError`, the publication may have been stored or not.
    7. Calls with the same idempotency key on the same channel store one publication,
       until the key expires. Every later call returns the position of the first one
       with ``duplicate=True``. This also holds if the calls run at the same time, and
       after a `BrokerUnavailableError`. Otherwise a publisher could not retry safely.
    8. Every call ends. Each has a deadline inside the broker, after which it raises
       `BrokerUnavailableError`. No call blocks the event loop. Otherwise one slow store
       would stop all connections of the process.
    9. Every call may be cancelled. A cancelled publish was stored completely or not at
       all. Other calls are not affected.

Subscriptions
    10. `Broker.subscribe` returns a position and the end of the channel. Every
        publication after that position is announced to this process. Some of these may
        be announced before the call returns, and so may publications up to the
        position; the hub compares the offsets. A broker therefore subscribes first and
        reads the position second. Otherwise publications between the two steps would be
        missed.
    11. After `Broker.unsubscribe` has returned, nothing more is announced for the
        channel.
    12. A channel stays subscribed while the link is lost.

Lost links
    13. The broker notices within a bounded time that its link is lost. This includes a
        half-open connection, and a connection that works but is no longer subscribed.
        It then calls `BrokerReceiver.on_link_lost` once. When the link works again and
        all channels are subscribed, it calls `BrokerReceiver.on_link_restored` once,
        and announces new publications. It does not announce the missed ones: the hub
        reads these from the log, once per channel. A broker without a link (because
        everything is in this process) never calls either method.

        A publication or signal that is not stored cannot be read later. While the link
        is lost, `Broker.signal` and a `Broker.publish` without a log therefore raise
        `BrokerUnavailableError` if this process has subscribed to the channel.
        Otherwise a publish would succeed, and the subscribers of this process would
        never receive the publication.

Names
    14. A channel name is opaque text of 1 to 255 bytes in UTF-8. A broker encodes it
        before it becomes part of a key, file name or identifier. The encoding maps
        different names to different results, and no result is a pattern or ends the
        surrounding syntax. Otherwise a client could read another channel by choosing a
        name.

Limits and close
    15. Everything that a broker stores is limited: logs by size and age; idempotency
        keys, presence entries and revocations by their lifetime. A jump of the wall
        clock of a process changes none of these times. Otherwise, after a jump, all
        leaves would be announced, or the entries of dead processes would stay.
    16. `Broker.close` may be called twice and at any time, and returns within seconds.
        Pending calls raise `BrokerUnavailableError`. Afterwards no method of the
        receiver is called.
    17. `Broker.capabilities` says what a broker can do. Options that need more raise
        `CapabilityError` when they are set, and not when they are used.

The end of a channel
    18. A publication whose `end` is set is the last one of its log. It is stored and
        announced like any other, and the log stores that it has ended. From then on
        `Broker.publish` stores and announces nothing, and raises
        `ChannelFinishedError`. This also holds with `skip_history`. A call whose
        idempotency key was used before still returns the first position. The end lasts
        as long as the log and its counter, even if the publications have left the log.
        `Broker.remove_history` removes it. If the end were not stored, a reader that
        subscribes later would wait for publications that never arrive.

Versions
    19. A log stores the version of its last publication with one. `Broker.publish`
        compares and stores versions in the same atomic step as the publication. If the
        new version is not higher, nothing is stored or announced, and the result says
        ``skipped=True``. A version with another epoch replaces the stored one.
        Without versions, a slow writer could replace a state with an older one.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple
from typing import Protocol

import msgspec

from falcon_channels.options import ChannelOptions
from falcon_channels.parts import in_parts
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import PresenceStats
from falcon_channels.publication import Publication
from falcon_channels.routing import ChannelRoute
from falcon_channels.routing import name_pattern


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """The capabilities of a broker.

    Attributes:
        history: Whether it stores logs. Without it, channels have no history and no
            recovery.
        presence: Whether it stores presence entries.
        durable: Whether logs and epochs survive the end of all processes.
        shared: Whether several processes can use one store.
        transactions: Whether `Broker.publish` accepts a `connection` of the
            application.
        immediate_reads: Whether `Broker.history` returns without waiting. The hub then
            does not combine concurrent reads of a channel.
        append_all: Whether it has `Broker.append_all`.
    """

    history: bool = True
    presence: bool = True
    durable: bool = False
    shared: bool = False
    transactions: bool = False
    immediate_reads: bool = False
    append_all: bool = False


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the log of one channel: its size and its times.

    Attributes:
        size: Maximum number of publications in the log; 0 for no log.
        ttl_s: Age in seconds after which a publication is removed from the log;
            ``None`` for no limit.
        meta_ttl_s: Seconds without a publication after which the log may be removed
            with its counter and epoch; ``None`` for no limit. Default: 30 days.
        idempotency_ttl_s: Seconds for which an idempotency key is stored. Default: 300.
    """

    size: int = 0
    ttl_s: float | None = None
    meta_ttl_s: float | None = 30 * 86400.0
    idempotency_ttl_s: float = 300.0

    @classmethod
    def of(cls, options: ChannelOptions) -> LogSettings:
        """Return the settings that the options of a channel ask for."""
        return cls(
            size=options.history_size,
            ttl_s=options.history_ttl_s,
            meta_ttl_s=options.meta_ttl_s,
            idempotency_ttl_s=options.idempotency_ttl_s,
        )


class Version(NamedTuple):
    """The version of the state that a publication carries.

    Attributes:
        number: The version, 0 to `MAX_VERSION`. A higher one is newer.
        epoch: Text that names the sequence of versions. Versions of different epochs
            are not compared. ``''`` is compared with every epoch.
    """

    number: int
    epoch: str = ''

    def follows(self, stored: Version | None) -> bool:
        """Return whether a log with a stored version accepts this version."""
        if stored is None or self.number > stored.number:
            return True
        return self.epoch not in ('', stored.epoch)


class Append(NamedTuple):
    """A publication for `Broker.append_all`; see `Broker.publish`.

    Attributes:
        channel: Name of the channel.
        publication: The publication.
        settings: How long the publication is stored; it has a log.
        version: Version of the publication.
    """

    channel: str
    publication: Publication
    settings: LogSettings
    version: Version


#: The highest version. All databases can store it.
MAX_VERSION = 2**63 - 1


class RouteSettings(NamedTuple):
    """Settings of a route, for a broker that can publish without this package.

    Attributes:
        template: Template of the names, which identifies the route.
        prefix: Text with which all names begin.
        pattern: Regular expression that matches all names of the route.
        rank: If several routes match a name, the one with the lowest rank is used.
        log: Settings of the logs.
        max_publication_bytes: Maximum payload size in bytes.
    """

    template: str
    prefix: str
    pattern: str
    rank: str
    log: LogSettings
    max_publication_bytes: int

    @classmethod
    def of(cls, route: ChannelRoute, number: int) -> RouteSettings:
        """Return the settings of a route.

        Args:
            route: The route.
            number: Number of routes that were added before it. Of two similar
                templates, the router uses the one that was added first.
        """
        prefix, pattern, rank = name_pattern(route.template)
        return cls(
            route.template,
            prefix,
            pattern,
            f'{rank}:{number:05d}',
            LogSettings.of(route.options),
            route.options.max_publication_bytes,
        )


class PublishResult(NamedTuple):
    """The result of `Broker.publish`.

    Attributes:
        position: Position of the publication; `NO_POSITION` for a channel without a
            log.
        duplicate: Whether the idempotency key was used before. `position` is then the
            position of the first publication with this key.
        skipped: Whether nothing was published, because the channel already has this
            version or a newer one. `position` is then the position of the channel.
    """

    position: Position
    duplicate: bool = False
    skipped: bool = False


class PresenceEntry(NamedTuple):
    """One connection that is present in one channel.

    Attributes:
        channel: Name of the channel.
        info: Public facts about the connection. Its `client` is the id of the
            connection, and the key of the entry in the channel.
    """

    channel: str
    info: ClientInfo


class PresenceAdded(NamedTuple):
    """The result of `Broker.add_presence` for one entry.

    Attributes:
        first: Whether it is the first entry of its user in the channel.
        new: Whether the entry did not exist. If this process had added it before, it
            expired and was removed, or the store lost its data.
        store: Id of the data in the store. It changes if the store loses its data.
            ``''`` if the store never loses data.
    """

    first: bool
    new: bool
    store: str = ''


class PresenceChange(NamedTuple):
    """A presence entry that was removed or has expired.

    Attributes:
        channel: Name of the channel.
        info: Public facts about the connection.
        last: Whether it was the last entry of its user in the channel.
    """

    channel: str
    info: ClientInfo
    last: bool


class BrokerReceiver(Protocol):
    """The methods that a broker calls, in the event loop that has called `start`.

    No method blocks or raises an error.
    """

    def on_publication(
        self, channel: str, publication: Publication, epoch: str
    ) -> None:
        """Called when a subscribed channel has a new publication.

        Args:
            channel: Name of the channel.
            publication: The publication, with its offset.
            epoch: Epoch of the offset; ``''`` for a channel without a log.
        """

    def on_signal(self, channel: str, signal: bytes) -> None:
        """Called when a subscribed channel has a signal; see `Broker.signal`."""

    def on_control(self, message: bytes) -> None:
        """Called when any process has sent a control message, this one included."""

    def on_link_lost(self) -> None:
        """Called when announcements no longer arrive (promise 13)."""

    def on_link_restored(self) -> None:
        """Called when announcements arrive again; some may have been missed."""


class Broker(abc.ABC):
    """Orders, stores and carries publications.

    The docstring of this module is the contract of all methods. Each method may also
    raise `BrokerUnavailableError` if the store cannot be reached, if its deadline has
    passed, or if the broker is closed.
    """

    capabilities: Capabilities

    @abc.abstractmethod
    async def start(self, receiver: BrokerReceiver) -> None:
        """Connect to the store.

        Called once, in the event loop in which the receiver is called from now on.

        Args:
            receiver: The receiver of all announcements.

        Raises:
            BrokerUnavailableError: The store cannot be reached, or has a version that
                this broker does not support. The message says what to do. Nothing
                stays open.
        """

    def set_routes(self, routes: Sequence[RouteSettings]) -> None:  # noqa: B027 - optional
        """Replace the known routes.

        Called before `start`, and after each change of the routes. A broker overrides
        it if other programs can publish through its store. The store then checks names
        and sizes by itself.

        Args:
            routes: All routes.
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """Release all connections, tasks and threads (promise 16)."""

    @abc.abstractmethod
    async def publish(
        self,
        channel: str,
        publication: Publication,
        settings: LogSettings,
        *,
        idempotency_key: str | None = None,
        connection: Any = None,
        version: Version | None = None,
        skip_history: bool = False,
    ) -> PublishResult:
        """Append a publication to the log and announce it, in one atomic step.

        Args:
            channel: Name of the channel.
            publication: The publication. The broker assigns its `offset`, and its
                `time_ms` if that is 0. If its `end` is set, it ends the channel
                (promise 18), which requires a log.
            settings: How long the publication is stored.
            idempotency_key: Text of 1 to 255 bytes in UTF-8 (promise 7), or ``None``.
            connection: A database connection of the application, or ``None``. Requires
                `Capabilities.transactions`. The publication is then part of the
                transaction, and is announced when that commits.
            version: Version of the state (promise 19), which requires a log; or
                ``None``.
            skip_history: Whether the publication is announced only, and not stored
                in the log of the channel. It then has neither a version nor an end.

        Returns:
            The position of the publication.

        Raises:
            ChannelFinishedError: The channel has ended. Nothing was stored.
            BrokerUnavailableError: The publication may have been stored or not. Call
                again with the same idempotency key.
            CapabilityError: `connection` is not of a supported class.
        """

    def append_all(
        self, items: Sequence[Append]
    ) -> asyncio.Future[list[PublishResult | None]]:
        """Publish to the logs of several channels with one call.

        Each publication is appended or skipped as by `publish`. Requires
        `Capabilities.append_all`, for brokers to which many calls of `publish` cost
        more.

        Args:
            items: Publications of different channels.

        Returns:
            A future of the results in the order of `items`. The result for a channel
            that has ended is ``None``.

        Raises:
            BrokerUnavailableError: Nothing was stored. If the future raises it, each
                publication may have been stored or not. Call `publish` for each of them
                with the same version.
        """
        raise NotImplementedError(f'{type(self).__name__} has no append_all')

    @abc.abstractmethod
    async def subscribe(self, channel: str, settings: LogSettings) -> HistoryPage:
        """Start to announce a channel to this process (promise 10).

        The caller does not subscribe a channel twice without `unsubscribe` in between.

        Args:
            channel: Name of the channel.
            settings: The same settings as for `publish`.

        Returns:
            A page without publications. Every publication after its position is
            announced. The position is `NO_POSITION` for a channel without a log.

        Raises:
            BrokerUnavailableError: The channel is not subscribed.
        """

    @abc.abstractmethod
    async def unsubscribe(self, channel: str) -> None:
        """Stop announcing a channel to this process (promise 11)."""

    @abc.abstractmethod
    async def history(
        self,
        channel: str,
        settings: LogSettings,
        *,
        since: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> HistoryPage:
        """Read publications of a log, and its newest position at the same moment.

        Args:
            channel: Name of the channel.
            settings: The same settings as for `publish`. Publications beyond their
                size and age are not returned.
            since: Return only publications with offsets above this one; with
                `reverse`, only those below it. ``None`` for no such limit.
            limit: Maximum number of publications; 0 to read the position only;
                ``None`` for all.
            reverse: Whether the newest publication comes first.

        Returns:
            The publications, the position of the newest one in the log, and the end of
            the channel if it has ended. A log that does not exist has offset 0 and the
            epoch of its first publication.
        """

    @abc.abstractmethod
    async def remove_history(self, channel: str) -> None:
        """Remove all publications of a log, and its end in the same atomic step.

        Its epoch, its counter and its version stay.
        """

    @abc.abstractmethod
    async def signal(self, channel: str, signal: bytes) -> None:
        """Announce bytes that are not stored and have no offset, such as a join."""

    @abc.abstractmethod
    async def control(self, message: bytes) -> None:
        """Send a message to every process, this one included, once and in order."""

    @abc.abstractmethod
    async def add_presence(
        self, entries: Sequence[PresenceEntry], ttl_s: float
    ) -> list[PresenceAdded]:
        """Add presence entries, or replace and refresh existing ones.

        Args:
            entries: The entries, of any channels; may be empty.
            ttl_s: Seconds after which the entries expire.

        Returns:
            For each entry, whether it is the first of its user in the channel, and
            whether it is new.
        """

    @abc.abstractmethod
    async def remove_presence(self, channel: str, client: str) -> PresenceChange | None:
        """Remove the entry of a connection; return ``None`` if there was none."""

    @abc.abstractmethod
    async def presence(self, channel: str) -> Mapping[str, ClientInfo]:
        """Return the entries of a channel by connection id, without expired ones."""

    async def presence_stats(self, channel: str) -> PresenceStats:
        """Return the numbers of entries and users that `presence` would return.

        This implementation reads all entries. A broker that can count them overrides
        it.
        """
        infos = await self.presence(channel)
        users: set[str] = set()
        async for part in in_parts(list(infos.values())):
            users.update(info.user for info in part)
        return PresenceStats(len(infos), len(users))

    async def has_user(self, channel: str, user: str) -> bool:
        """Return whether a user has an entry in a channel, in any process.

        Called after each announcement that a user has left. This implementation reads
        all entries of the channel. A broker that can look up one user overrides it.
        """
        infos = await self.presence(channel)
        return any(info.user == user for info in infos.values())

    @abc.abstractmethod
    async def expire_presence(self, limit: int) -> list[PresenceChange]:
        """Remove expired entries.

        If several processes call this at the same time, each entry is returned to one
        of them. An expired entry counts for "first" and "last" until it is returned.

        Args:
            limit: Maximum number of entries to remove.
        """

    @abc.abstractmethod
    async def revoke(self, channel: str, user: str, ttl_s: float) -> None:
        """Forbid a user to subscribe to a channel for `ttl_s` seconds; 0 allows it."""

    @abc.abstractmethod
    async def is_revoked(self, channel: str, user: str) -> bool:
        """Return whether `revoke` forbids a user to subscribe to a channel."""
