"""The broker for many hosts on Redis or Valkey: streams, scripts and pub/sub.

* A Lua script appends a publication to the stream of its channel and announces it with
  pub/sub, in one atomic step.
* Announcements arrive on one pub/sub connection to each server (`listener`). The link
  is lost if one of these connections is lost. It is restored when all of them are open
  and all channels are subscribed again.
* Control messages are also stored in a stream. After the link was lost, the broker
  reads the missed ones from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from collections.abc import Sequence
import itertools
import logging
import re
import secrets
from typing import Any

import msgspec

from falcon_channels.brokers.background_tasks import run_forever
from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import BrokerReceiver
from falcon_channels.brokers.base import Capabilities
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import PresenceAdded
from falcon_channels.brokers.base import PresenceChange
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.base import Version
from falcon_channels.brokers.control_inbox import ControlInbox
from falcon_channels.brokers.encoding import decode_info
from falcon_channels.brokers.encoding import decode_presence
from falcon_channels.brokers.encoding import decode_publication
from falcon_channels.brokers.encoding import encode_info
from falcon_channels.brokers.encoding import encode_publication
from falcon_channels.brokers.milliseconds import to_ms
from falcon_channels.brokers.redis import scripts
from falcon_channels.brokers.redis.client import Client
from falcon_channels.brokers.redis.connections import LINK_ERRORS
from falcon_channels.brokers.redis.connections import RedisConnector
from falcon_channels.brokers.redis.connections import Topology
from falcon_channels.brokers.redis.keys import Keys
from falcon_channels.brokers.redis.keys import PARTITIONS
from falcon_channels.brokers.redis.keys import token
from falcon_channels.brokers.redis.keys import untoken
from falcon_channels.brokers.redis.listener import PubSubListener
from falcon_channels.brokers.redis.revocations import RememberedRevocations
from falcon_channels.brokers.url_options import parse_query
from falcon_channels.brokers.url_options import REDIS_SCHEMES
from falcon_channels.brokers.url_options import seconds
from falcon_channels.brokers.url_options import yes_or_no
from falcon_channels.burst_log import BurstLog
from falcon_channels.checks import check_seconds
from falcon_channels.checks import check_type
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ChannelFinishedError
from falcon_channels.errors import OptionsError
from falcon_channels.parts import in_parts
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import NO_POSITION
from falcon_channels.publication import Position
from falcon_channels.publication import Publication

_logger = logging.getLogger('falcon_channels')

#: Maximum number and age of the control messages that are stored for processes whose
#: link is lost.
_MAX_CONTROLS = 10_000
_MAX_CONTROL_AGE_MS = 3_600_000
#: Seconds after which missed control messages are read again if that has failed.
_RETRY_S = 0.5
#: Seconds between two attempts to write lost revocations, or to find the servers of a
#: Cluster whose link is lost.
_CHECK_S = 2.0
#: Number of revocations that are written at once.
_BATCH = 500
#: Milliseconds for which presence keys stay after their last entry has expired, so that
#: `expire_presence` can find the entry.
_PRESENCE_KEY_EXTRA_MS = 3_600_000
#: The largest integer that Lua represents exactly. No log reaches this offset.
_MAX_OFFSET = 2**53

_PREFIX = re.compile(r'[A-Za-z0-9_.-]{1,64}')


class RedisBroker(Broker):
    """A broker on a Redis or Valkey server, or on a Cluster.

    Args:
        connector: Opens connections to the servers.
        prefix: Prefix of all keys.
        timeout_s: Deadline of every call, in seconds.
        probe_s: Seconds between two probes of the link.
        trusted: Whether the server never loses an acknowledged write. This requires
            ``appendfsync always``, and no replica may take over. Epochs then survive a
            restart of the server; otherwise a restart begins new epochs.
    """

    capabilities = Capabilities(durable=True, shared=True)

    def __init__(
        self,
        connector: RedisConnector,
        *,
        prefix: str = 'falcon',
        timeout_s: float = 5.0,
        probe_s: float = 2.0,
        trusted: bool = False,
    ) -> None:
        check_type('prefix', prefix, str)
        check_type('trusted', trusted, bool)
        if not _PREFIX.fullmatch(prefix):
            raise OptionsError(
                f'prefix is {prefix!r}, and must be 1 to 64 letters, digits, "_", "." '
                'or "-"'
            )
        self._connector = connector
        self._timeout_s: float = check_seconds('timeout_s', timeout_s)
        self._probe_s: float = check_seconds('probe_s', probe_s)
        self._trusted = int(trusted)
        self._keys = Keys(prefix, connector.database)
        self._client: Client | None = None
        self._listeners: list[PubSubListener] = []
        self._receiver: BrokerReceiver | None = None
        #: Subscribed channels by their pub/sub names.
        self._channels: dict[bytes, str] = {}
        self._revocations = RememberedRevocations()
        #: Run ids of the servers, from the last time at which all revocations were
        #: stored.
        self._run_ids: frozenset[str] = frozenset()
        #: Whether revocations that a server may have lost could not be written yet.
        self._revocations_due = False
        self._was_up = False
        self._failures = BurstLog()
        self._changed = asyncio.Event()
        self._inbox = ControlInbox((0, 0))
        self._link_task: asyncio.Task[None] | None = None
        #: Whether a key or name has moved, so that the topology must be read again.
        self._must_find_servers = False
        #: The topology of the listeners; that of the client may be newer.
        self._listening_topology = Topology(frozenset(), ())
        self._epoch_prefix = ''
        self._epoch_numbers = itertools.count()
        self._closed = False

    @classmethod
    def from_url(cls, url: str) -> RedisBroker:
        """Return a broker for ``redis://[user:password@]host[:port][/database]``.

        ``rediss://`` uses TLS. Its options are ``ssl_ca_certs``, ``ssl_certfile``,
        ``ssl_keyfile`` and ``ssl_check_hostname``. ``redis+unix:///path`` uses a Unix
        socket. ``redis+sentinel://host1[:port],host2[:port]/service[/database]`` asks
        Sentinels for the primary, with TLS if it begins with ``rediss``. The user and
        the password are those of the servers, and ``sentinel_password`` is that of the
        Sentinels.

        Args:
            url: The URL. Other options are the arguments of the class: ``prefix``,
                ``timeout_s``, ``probe_s`` and ``trusted=yes``.

        Raises:
            OptionsError: The URL is not valid, or an option is unknown or out of range.
        """
        parts, options = parse_query(
            url,
            REDIS_SCHEMES,
            {
                'prefix': lambda name, text: text,
                'timeout_s': seconds,
                'probe_s': seconds,
                'trusted': yes_or_no,
                'ssl_ca_certs': lambda name, text: text,
                'ssl_certfile': lambda name, text: text,
                'ssl_keyfile': lambda name, text: text,
                'ssl_check_hostname': yes_or_no,
                'sentinel_password': lambda name, text: text,
            },
        )
        tls = {
            name: options.pop(name) for name in list(options) if name.startswith('ssl_')
        }
        connector = RedisConnector(
            parts,
            tls,
            options.get('timeout_s', 5.0),
            options.pop('sentinel_password', None),
        )
        return cls(connector, **options)

    # --- start and close --------------------------------------------------------------

    async def start(self, receiver: BrokerReceiver) -> None:
        if self._closed:
            raise BrokerUnavailableError('the broker is closed')
        self._connector.warn()
        self._receiver = receiver
        # NOTE: a random number for each call would cost a microsecond. The prefix is
        #   made here, because the process may have been forked after `__init__`.
        self._epoch_prefix = secrets.token_urlsafe(9)
        client = self._client = Client(self._connector, self._timeout_s, self._on_moved)
        try:
            await client.find_servers()
            await client.warn_about_eviction()
            self._run_ids = await client.run_ids()
            newest = await client.call(
                self._keys.control,
                'XREVRANGE',
                self._keys.control,
                '+',
                '-',
                'COUNT',
                1,
            )
            last = _control_id(newest[0][0]) if newest else (0, 0)
            self._inbox = ControlInbox(last, receiver.on_control)
            self._listen()
            await self._wait_until_up()
        except BaseException:
            await self._close_all()
            raise
        self._was_up = True
        self._link_task = run_forever(
            self._supervise_link, 'redis link', self._changed.set
        )

    async def close(self) -> None:
        self._closed = True
        await self._close_all()

    async def _close_all(self) -> None:
        link_task, self._link_task = self._link_task, None
        if link_task is not None:
            link_task.cancel()
            await asyncio.gather(link_task, return_exceptions=True)
        listeners, self._listeners = self._listeners, []
        await asyncio.gather(*(listener.close() for listener in listeners))
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _wait_until_up(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s * 2):
                while not self._is_up():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            reasons = {item.reason for item in self._listeners if not item.up}
            raise BrokerUnavailableError('; '.join(sorted(reasons))) from None

    # --- publications -----------------------------------------------------------------

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
        client = self._get_client()
        name = self._keys.name(channel)
        if skip_history or not settings.size:
            self._check_link(name)
        keys = list(self._keys.log(channel))
        idempotency_ms = 0
        if idempotency_key is not None:
            keys.append(self._keys.idempotency(channel, idempotency_key))
            idempotency_ms = to_ms(settings.idempotency_ttl_s)
        answer: bytes = await client.run(
            scripts.PUBLISH,
            keys,
            name,
            client.topology.publish,
            -1 if skip_history and settings.size else settings.size,
            to_ms(settings.ttl_s) or -1,
            to_ms(settings.meta_ttl_s) or -1,
            idempotency_ms,
            self._new_epoch(),
            self._trusted,
            encode_publication(publication),
            *_special_arguments(publication.end, version),
        )
        if answer == b'f':
            raise ChannelFinishedError(channel)
        kind = answer[:1]
        offset, _, epoch = answer.lstrip(b'ds').partition(b' ')
        position = Position(int(offset), epoch.decode())
        return PublishResult(position, kind == b'd', kind == b's')

    async def subscribe(self, channel: str, settings: LogSettings) -> HistoryPage:
        name = self._keys.name(channel)
        listener = self._listener_of(name)
        # NOTE: before the position is read, so that no publication between the two is
        #   missed.
        self._channels[name] = channel
        try:
            await listener.subscribe(name)
            if not settings.size:
                return HistoryPage([], NO_POSITION)
            page = await self.history(channel, settings, limit=0)
        except BaseException:
            self._channels.pop(name, None)
            listener.unsubscribe(name)
            raise
        return page

    async def unsubscribe(self, channel: str) -> None:
        name = self._keys.name(channel)
        self._channels.pop(name, None)
        if self._listeners:
            self._listener_of(name).unsubscribe(name)

    async def history(
        self,
        channel: str,
        settings: LogSettings,
        *,
        since: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> HistoryPage:
        if not settings.size:
            return HistoryPage([], NO_POSITION)
        offset, epoch, heads, bodies, error = await self._get_client().run(
            scripts.HISTORY,
            list(self._keys.log(channel)),
            settings.size,
            to_ms(settings.ttl_s) or -1,
            to_ms(settings.meta_ttl_s) or -1,
            self._new_epoch(),
            self._trusted,
            -1 if since is None else max(0, min(since, _MAX_OFFSET)),
            -1 if limit is None else min(limit, _MAX_OFFSET),
            int(reverse),
        )
        publications = []
        start = 0
        for head in heads.split():
            number, ms, size = map(int, head.split(b'-'))
            body = bodies[start : start + size]
            publications.append(decode_publication(body, number, ms))
            start += size
        return HistoryPage(
            publications,
            Position(int(offset), epoch.decode()),
            None if error is None else ChannelEnd(error.decode()),
        )

    async def remove_history(self, channel: str) -> None:
        keys = list(self._keys.log(channel))
        await self._get_client().run(scripts.REMOVE_HISTORY, keys)

    async def signal(self, channel: str, signal: bytes) -> None:
        client = self._get_client()
        name = self._keys.name(channel)
        self._check_link(name)
        await client.call(name, client.topology.publish, name, b's' + signal)

    async def control(self, message: bytes) -> None:
        client = self._get_client()
        await client.run(
            scripts.CONTROL,
            [self._keys.control],
            self._keys.control_name,
            client.topology.publish,
            _MAX_CONTROLS,
            _MAX_CONTROL_AGE_MS,
            message,
        )

    # --- presence and revocations -----------------------------------------------------

    async def add_presence(
        self, entries: Sequence[PresenceEntry], ttl_s: float
    ) -> list[PresenceAdded]:
        client = self._get_client()
        parts: dict[int, list[int]] = {}
        for index, entry in enumerate(entries):
            number = self._keys.partition_of(entry.channel)
            parts.setdefault(number, []).append(index)
        ttl_ms = to_ms(ttl_s)
        calls = []
        for number, indexes in parts.items():
            base = self._keys.partition(number)
            words: list[str | bytes] = []
            for index in indexes:
                channel, info = entries[index]
                words += [token(channel), info.client, info.user, encode_info(info)]
            key_ttl_ms = ttl_ms + _PRESENCE_KEY_EXTRA_MS
            calls.append(
                client.run(
                    scripts.PRESENCE_ADD,
                    [f'{base}until'],
                    base,
                    ttl_ms,
                    key_ttl_ms,
                    secrets.token_urlsafe(9),
                    *words,
                )
            )
        added = [PresenceAdded(False, False)] * len(entries)
        for indexes, (store, firsts, news) in zip(
            parts.values(), await asyncio.gather(*calls), strict=True
        ):
            for index, first, new in zip(indexes, firsts, news, strict=True):
                added[index] = PresenceAdded(bool(first), bool(new), store.decode())
        return added

    async def remove_presence(self, channel: str, client: str) -> PresenceChange | None:
        base = self._keys.partition(self._keys.partition_of(channel))
        found = await self._get_client().run(
            scripts.PRESENCE_REMOVE, [f'{base}until'], base, token(channel), client
        )
        if found is None:
            return None
        return PresenceChange(channel, decode_info(found[0]), bool(found[1]))

    async def presence(self, channel: str) -> Mapping[str, ClientInfo]:
        base = self._keys.partition(self._keys.partition_of(channel))
        sizes, parts = await self._get_client().run(
            scripts.PRESENCE_LIST, [f'{base}until'], base, token(channel)
        )
        found = []
        start = 0
        async for some in in_parts(sizes.split()):
            for size in map(int, some):
                found.append(parts[start : start + size])
                start += size
        return await decode_presence(list(zip(found[::2], found[1::2], strict=True)))

    async def has_user(self, channel: str, user: str) -> bool:
        base = self._keys.partition(self._keys.partition_of(channel))
        key = f'{base}u:{token(channel)}'
        return bool(await self._get_client().call(key, 'HEXISTS', key, user))

    async def expire_presence(self, limit: int) -> list[PresenceChange]:
        client = self._get_client()
        changes: list[PresenceChange] = []
        for number in range(PARTITIONS):
            base = self._keys.partition(number)
            while len(changes) < limit:
                count = limit - len(changes)
                try:
                    found, entries = await client.run(
                        scripts.PRESENCE_EXPIRE, [f'{base}until'], base, count
                    )
                except BrokerUnavailableError:
                    if not changes:
                        raise
                    # NOTE: these entries are removed, and nobody else announces them.
                    return changes
                for encoded, info, last in entries:
                    changes.append(
                        PresenceChange(untoken(encoded), decode_info(info), bool(last))
                    )
                if found < count:
                    break
        return changes

    async def revoke(self, channel: str, user: str, ttl_s: float) -> None:
        key = self._keys.revocation(channel, user)
        if ttl_s > 0:
            await self._get_client().call(key, 'SET', key, 1, 'PX', to_ms(ttl_s))
            until_s = asyncio.get_running_loop().time() + ttl_s
            self._revocations.add(channel, user, until_s)
        else:
            # NOTE: the key stays until the revocation would have expired. While it
            #   exists, a process that remembers the revocation does not write it again.
            await self._get_client().call(key, 'SET', key, 0, 'XX', 'KEEPTTL')
            self._revocations.remove(channel, user)

    async def is_revoked(self, channel: str, user: str) -> bool:
        key = self._keys.revocation(channel, user)
        value: bytes | None = await self._get_client().call(key, 'GET', key)
        return value == b'1'

    # --- announcements ----------------------------------------------------------------

    def _on_message(self, name: bytes, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None or self._closed:
            return
        try:
            if name == self._keys.control_name:
                entry_id, _, message = data.partition(b' ')
                self._inbox.receive(_control_id(entry_id), message)
                return
            channel = self._channels.get(name)
            if channel is None:
                return
            kind, rest = data[:1], data[1:]
            if kind == b's':
                receiver.on_signal(channel, rest)
            elif kind == b'p':
                offset, epoch, ms, body = rest.split(b' ', 3)
                item = decode_publication(body, int(offset), int(ms))
                receiver.on_publication(channel, item, epoch.decode())
            elif kind == b'l':
                live_ms, _, body = rest.partition(b' ')
                item = decode_publication(body, 0, int(live_ms))
                receiver.on_publication(channel, item, '')
        except (ValueError, msgspec.DecodeError) as ex:
            # NOTE: another release or another application has sent it. If it was a
            #   publication, the hub notices the gap in the offsets.
            source = self._channels.get(name, 'control messages')
            _logger.error('cannot decode an announcement in %r: %s', source, ex)

    # --- link -------------------------------------------------------------------------

    def _listen(self) -> None:
        """Open a listener for each server, with the names that belong there."""
        client = self._get_client()
        topology = self._listening_topology = client.topology
        node = secrets.token_urlsafe(9)
        self._listeners = [
            PubSubListener(
                self._connector,
                client.connection(address),
                topology.subscribe,
                topology.unsubscribe,
                self._keys.probe(node),
                probe_s=self._probe_s,
                timeout_s=self._timeout_s,
                on_message=self._on_message,
                on_change=self._changed.set,
                on_moved=self._on_moved,
            )
            for address in topology.addresses
        ]
        for name in (self._keys.control_name, *self._channels):
            self._listener_of(name).add_names([name])

    def _listener_of(self, name: bytes) -> PubSubListener:
        address = self._listening_topology.address_of(name)
        for listener in self._listeners:
            if listener.address == address:
                return listener
        raise BrokerUnavailableError(
            f'there is no pub/sub connection to Redis at {address} yet'
        )

    def _check_link(self, name: bytes) -> None:
        """Raise an error if this process would miss a message that is not stored."""
        if name in self._channels:
            listener = self._listener_of(name)
            if not listener.up:
                raise listener.lost_error()

    def _is_up(self) -> bool:
        return bool(self._listeners) and all(item.up for item in self._listeners)

    def _on_moved(self) -> None:
        self._must_find_servers = True
        self._changed.set()

    async def _supervise_link(self) -> None:
        """Report the link to the receiver, and follow slots that move."""
        assert self._receiver is not None
        while True:
            # NOTE: while the link to a Cluster is lost, the topology is read again and
            #   again, because another server may have taken over.
            clustered = bool(self._get_client().topology.slots)
            moving = clustered and not self._was_up
            try:
                async with asyncio.timeout(
                    _CHECK_S if moving or self._revocations_due else None
                ):
                    await self._changed.wait()
            except TimeoutError:
                self._must_find_servers = self._must_find_servers or moving
            self._changed.clear()
            if self._was_up and (not self._is_up() or self._must_find_servers):
                self._was_up = False
                self._inbox.start_buffering()
                self._receiver.on_link_lost()
            if self._must_find_servers and clustered:
                await self._follow_slots()
            if self._revocations_due and self._was_up:
                await self._write_lost_revocations()
            if not self._was_up and self._is_up():
                await self._write_lost_revocations()
                try:
                    if not await self._read_missed_controls():
                        continue
                except (BrokerUnavailableError, *LINK_ERRORS) as ex:
                    # NOTE: while a restarted server loads its data, pub/sub works, but
                    #   streams cannot be read. No listener reports when they can.
                    self._failures.warning(
                        'cannot read the missed control messages of Redis: %s', ex
                    )
                    await asyncio.sleep(_RETRY_S)
                    self._changed.set()
                    continue
                self._was_up = True
                self._receiver.on_link_restored()

    async def _follow_slots(self) -> None:
        """Replace the listeners if the slots have moved."""
        self._must_find_servers = False
        client = self._get_client()
        try:
            await client.find_servers()
        except BrokerUnavailableError as ex:
            _logger.warning('cannot read the slots of the Redis Cluster: %s', ex)
            return
        if client.topology != self._listening_topology:
            listeners, self._listeners = self._listeners, []
            await asyncio.gather(*(listener.close() for listener in listeners))
            self._changed.clear()
            self._listen()

    async def _read_missed_controls(self) -> bool:
        """Deliver the control messages that were sent while the link was lost.

        Returns:
            Whether they are complete. They are not if the link has changed meanwhile.
        """
        key = self._keys.control
        newest = await self._get_client().call(
            key, 'XREVRANGE', key, '+', '-', 'COUNT', 1
        )
        if not newest or _control_id(newest[0][0]) < self._inbox.last:
            # NOTE: the server has lost the newest messages. If its clock is behind,
            #   messages that it has stored since then have lower ids.
            self._inbox.reset(await self._last_control_before_restart())
        while True:
            ms, number = self._inbox.last
            entries = await self._get_client().call(
                key, 'XRANGE', key, f'({ms}-{number}', '+', 'COUNT', 500
            )
            for entry_id, fields in entries:
                self._inbox.deliver(_control_id(entry_id), fields[1])
            if len(entries) < 500:
                break
        if self._changed.is_set():
            return False
        self._inbox.stop_buffering()
        return True

    async def _last_control_before_restart(self) -> tuple[int, int]:
        """Return the id of the newest control message of an earlier run of the server.

        Messages up to this id were delivered before. If the server does not tell its
        id, this is the newest message. Without any message, the id is the lowest one.
        """
        key = self._keys.control
        run_id = (await self._get_client().run_id_of(key)).encode()
        end = '+'
        while True:
            entries = await self._get_client().call(
                key, 'XREVRANGE', key, end, '-', 'COUNT', 500
            )
            for entry_id, fields in entries:
                if not run_id or fields[3:] != [run_id]:
                    return _control_id(entry_id)
            if len(entries) < 500:
                return 0, 0
            end = f'({entries[-1][0].decode()}'

    async def _write_lost_revocations(self) -> None:
        """Write revocations of this process again if a server may have lost them."""
        client = self._get_client()
        self._revocations_due = False
        try:
            run_ids = await client.run_ids()
            if run_ids == self._run_ids:
                return
            left = self._revocations.left(asyncio.get_running_loop().time())
            for start in range(0, len(left), _BATCH):
                calls = []
                for channel, user, left_s in left[start : start + _BATCH]:
                    key = self._keys.revocation(channel, user)
                    words = ('SET', key, 1, 'NX', 'PX', to_ms(left_s))
                    calls.append(client.call(key, *words))
                await asyncio.gather(*calls)
        except BrokerUnavailableError as ex:
            self._revocations_due = True
            self._failures.warning(
                'cannot write revocations that Redis may have lost: %s', ex
            )
        else:
            self._run_ids = run_ids

    def _new_epoch(self) -> str:
        """Return a text that no log has used as its epoch."""
        return f'{self._epoch_prefix}{next(self._epoch_numbers):x}'

    def _get_client(self) -> Client:
        if self._client is None:
            raise BrokerUnavailableError('the Redis broker is not open')
        return self._client


def _special_arguments(
    end: ChannelEnd | None, version: Version | None
) -> tuple[str | int, ...]:
    """Return the last arguments of the script, which most publications do not need."""
    if end is None and version is None:
        return ()
    finished = (0, '') if end is None else (1, end.error)
    return finished if version is None else (*finished, *version)


def _control_id(entry_id: bytes) -> tuple[int, int]:
    ms, _, number = entry_id.partition(b'-')
    return int(ms), int(number)
