"""One simulation: processes, devices, faults, and the checks that must always pass."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
import logging
import random
from typing import Any

import falcon

from falcon_channels import BrokerUnavailableError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import ClosedError
from falcon_channels import NodeOptions
from falcon_channels import UnsubscribedError
from falcon_channels.brokers.base import LogSettings
from falcon_channels.protocol import recovery
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Publication
from falcon_channels.testing.client import SimulatedClient
from falcon_channels.testing.clock import run_with_fake_clock
from simulation.actor import Actor
from simulation.faulty_broker import FaultyBroker
from simulation.faulty_broker import Store

BACKLOG_BYTES = 1500
MAX_PUBLICATION_BYTES = 100
#: Largest size that a publication counts for while it waits, with its sender.
_MAX_ITEM_BYTES = MAX_PUBLICATION_BYTES + 300

ROUTES = {
    'log:{name}': ChannelOptions(
        subscribers='anybody',
        delta=True,
        history_size=12,
        history_ttl_s=30.0,
        presence=True,
        presence_ttl_s=6.0,
        join_leave='user',
        leave_grace_s=1.0,
        max_backlog_bytes=BACKLOG_BYTES,
        max_publication_bytes=MAX_PUBLICATION_BYTES,
    ),
    'deep:{name}': ChannelOptions(
        subscribers='anybody',
        delta=True,
        history_size=1000,
        presence=True,
        presence_ttl_s=9.0,
        join_leave='connection',
        max_backlog_bytes=BACKLOG_BYTES,
        max_publication_bytes=MAX_PUBLICATION_BYTES,
    ),
    'state:{name}': ChannelOptions(
        subscribers='anybody',
        delta=True,
        history_size=1,
        recovery='latest',
        slow_reader='latest',
        max_backlog_bytes=BACKLOG_BYTES,
        max_publication_bytes=MAX_PUBLICATION_BYTES,
    ),
    'lossy:{name}': ChannelOptions(
        subscribers='anybody',
        delta=True,
        slow_reader='drop_oldest',
        join_leave='connection',
        max_backlog_bytes=BACKLOG_BYTES,
        max_publication_bytes=MAX_PUBLICATION_BYTES,
    ),
    'plain:{name}': ChannelOptions(
        subscribers='anybody',
        delta=True,
        max_backlog_bytes=BACKLOG_BYTES,
        max_publication_bytes=MAX_PUBLICATION_BYTES,
    ),
}
CHANNELS = ['log:a', 'log:b', 'deep:a', 'state:a', 'lossy:a', 'plain:a']


class Violation(AssertionError):
    """A check of the simulation failed."""


class Process:
    """A simulated process: `Channels` and its link to the store."""

    def __init__(self, world: World) -> None:
        self.broker = FaultyBroker(
            world.store,
            world.rng,
            calm=world.calm,
            exact=world.exact,
            grid_s=world.grid_s,
        )
        self.channels = Channels(
            self.broker,
            NodeOptions(
                linger_s=0.4,
                position_check_s=None if world.exact else 5.0,
                max_backlog_bytes=BACKLOG_BYTES,
                max_pending_bytes=700,
                drain_interval_s=0.05,
                drain_batch=3,
            ),
        )
        for template, options in ROUTES.items():
            self.channels.add_route(template, None, options)


class World:
    """A simulation that is decided by its seed.

    Args:
        seed: Seed of all random numbers.

    Attributes:
        calm: Whether links hold, calls are quick, and no process ends.
        exact: Whether announcements are lost only when the broker reports it. All
            clients then receive everything without any position check.
        grid_s: All times are multiples of this, so that many events happen in one
            event-loop iteration; 0 for any time.
        trace: One line for each event, with its time.
        breaks: How often a link broke, was restored, or a log was lost.
        published: Channel and payload of each publication.
        num_deltas: How many deltas all devices received.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.calm = self.rng.random() < 0.25
        self.exact = self.calm or self.rng.random() < 0.4
        self.grid_s = self.rng.choice([0.0, 0.01])
        self.store = Store(asyncio.get_running_loop())
        self.trace: list[str] = []
        self.breaks = 0
        self.published: list[tuple[str, bytes]] = []
        self.num_deltas = 0
        self.processes: list[Process] = []
        self.actors: list[Actor] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failure: str | None = None

    # --- trace and failure -----------------------------------------------------------

    def note(self, *facts: object) -> None:
        now_s = asyncio.get_running_loop().time()
        self.trace.append(f'{now_s:.6f} ' + ' '.join(map(str, facts)))

    def fail(self, message: str) -> None:
        # NOTE: not raised here, because the hub may be the caller.
        self._failure = self._failure or message

    # --- the run ---------------------------------------------------------------------

    async def run(self) -> None:
        await self.store.start()
        for _ in range(2):
            await self._start_process()
        for number in range(self.rng.randint(3, 7)):
            user = f'user{number // 2}'
            # NOTE: every other device asks for deltas.
            actor = Actor(self, f'device{number}', user, delta=number % 2 == 1)
            self.actors.append(actor)
        await self._start_watcher()
        for _ in range(self.rng.randint(40, 140)):
            self._step()
            if self.rng.random() < 0.7:
                await asyncio.sleep(self._on_grid(self.rng.expovariate(20.0)))
            elif self.rng.random() < 0.05:
                await asyncio.sleep(self.rng.uniform(1.0, 8.0))
            self._check_bounds()
            self._check_failure()
        await self._settle()
        await self._check_settled()
        self._check_failure()
        await self._leave()
        self._check_failure()

    async def _start_watcher(self) -> None:
        """Start a client that observes joins and leaves, and is never disturbed."""
        self.watcher = Actor(self, 'watcher', 'watcher')
        self.watcher.connect(0)
        assert self.watcher.client is not None
        await self.watcher.client.__aenter__()
        for channel in ('log:a', 'log:b', 'deep:a'):
            await self.watcher.subscribe(channel, fresh=True)

    async def _start_process(self) -> None:
        process = Process(self)
        await process.channels.start()
        self.processes.append(process)

    def _check_failure(self) -> None:
        if self._failure is not None:
            raise Violation(self._failure)

    def _on_grid(self, delay_s: float) -> float:
        return round(delay_s / self.grid_s) * self.grid_s if self.grid_s else delay_s

    def _task(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = self._failure or repr(task.exception())

    def _step(self) -> None:
        rng = self.rng
        actor = rng.choice(self.actors)
        client = actor.client
        if client is not None and client.end is not None:
            self.note(actor.name, 'was disconnected', client.end[0])
            actor.forget_connection()
            client = None
        roll = rng.random()
        if roll < 0.01:
            # NOTE: more than may be pending for any subscription.
            channel = rng.choice(CHANNELS)
            for _ in range(60):
                self._publish(channel)
        elif roll < 0.40:
            for _ in range(rng.choice([1, 1, 2, 5, 12])):
                self._publish(rng.choice(CHANNELS[: rng.choice([1, 3, 6])]))
        elif client is None:
            self._connect(actor)
        elif roll < 0.65:
            self._subscribe(actor, rng.choice(CHANNELS))
        elif roll < 0.72:
            channel = rng.choice(CHANNELS)
            self.note(actor.name, 'unsubscribes', channel)
            actor.unsubscribe(channel)
        elif roll < 0.75:
            self._hop(actor)
        elif roll < 0.79:
            self.note(actor.name, 'disconnects')
            client.disconnect()
            actor.forget_connection()
        elif roll < 0.86:
            self.note(actor.name, 'stops reading')
            client.stop_reading()
        elif roll < 0.93:
            self.note(actor.name, 'reads again')
            client.read_again()
        else:
            self._fault()

    def _fault(self) -> None:
        rng = self.rng
        roll = rng.random()
        channel = rng.choice(CHANNELS)
        if roll < 0.15:
            self.note('history removed', channel)
            self._task(self.store.memory.remove_history(channel))
        elif roll < 0.3 and not self.calm:
            self.note('log lost', channel)
            self.breaks += 1
            self.store.lose_log(channel)
            if self.exact:
                # NOTE: like a server that restarts without its disk.
                for process in self.processes:
                    self._task(self._break_link(process))
        elif roll < 0.7 and not self.calm:
            self.note('link breaks')
            self._task(self._break_link(rng.choice(self.processes)))
        elif roll < 0.8 and not self.calm:
            self._task(self._replace(rng.randrange(len(self.processes))))
        else:
            process = rng.choice(self.processes).channels
            user = f'user{rng.randrange(4)}'
            self.note('unsubscribe', user, channel)
            self._task(self._quietly(process.unsubscribe_user(user, channel)))

    async def _break_link(self, process: Process) -> None:
        self.breaks += 1
        await process.broker.break_link()
        self.breaks += 1

    async def _quietly(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            await coroutine
        except (BrokerUnavailableError, ClosedError):
            return

    async def _replace(self, number: int) -> None:
        """Drain and close a process, and start another one in its place."""
        self.note('process', number, 'ends')
        new = Process(self)
        await new.channels.start()
        old, self.processes[number] = self.processes[number], new
        self.breaks += 1
        await old.channels.close()

    def _connect(self, actor: Actor) -> None:
        actor.connect(self.rng.randrange(len(self.processes)))
        assert actor.client is not None
        self.note(actor.name, 'connects to', actor.process)
        self._task(self._enter(actor.client))
        self._subscribe(actor, self.rng.choice(CHANNELS))

    async def _enter(self, client: SimulatedClient) -> None:
        try:
            await client.__aenter__()
        except (ClosedError, falcon.HTTPServiceUnavailable):
            client.transport.abort()

    def _subscribe(self, actor: Actor, channel: str) -> None:
        client = actor.client
        assert client is not None
        if channel in client.connection.subscriptions or channel in actor.live:
            return
        fresh = self.rng.random() < 0.15
        self.note(actor.name, 'subscribes', channel, fresh)
        task = self._task(self._subscribing(actor, channel, fresh))
        if self.rng.random() < 0.1:
            asyncio.get_running_loop().call_later(
                self.rng.expovariate(50.0), task.cancel
            )

    async def _subscribing(self, actor: Actor, channel: str, fresh: bool) -> None:
        client = actor.client
        try:
            if client is None or client.transport.end is not None:
                return
            if channel in client.connection.subscriptions:
                return
            await actor.subscribe(channel, fresh)
        except (
            BrokerUnavailableError,
            UnsubscribedError,
            ClosedError,
            falcon.HTTPServiceUnavailable,
        ) as ex:
            self.note(actor.name, channel, type(ex).__name__)

    def _hop(self, actor: Actor) -> None:
        """Unsubscribe a user on one device and subscribe them on another."""
        twin = self.actors[self.actors.index(actor) ^ 1 :][:1]
        channel = self.rng.choice(('log:a', 'log:b', 'deep:a'))
        self.note(actor.name, 'hops', channel)
        actor.unsubscribe(channel)
        for other in twin:
            if other.client is not None and other.client.end is None:
                self._subscribe(other, channel)

    def _publish(self, channel: str) -> None:
        data = f'{channel} {len(self.published)}'.ljust(self.rng.choice([16, 60]), '.')
        payload = b'"%s"' % data.encode()
        self.published.append((channel, payload))
        self.note('publish', data)
        self._task(self._publishing(channel, data))

    async def _publishing(self, channel: str, data: str) -> None:
        process = self.rng.choice(self.processes)
        while True:
            try:
                await process.channels.publish(channel, data, idempotency_key=data)
                return
            except (BrokerUnavailableError, ClosedError):
                await asyncio.sleep(0.5)
                process = self.rng.choice(self.processes)

    # --- checks ----------------------------------------------------------------------

    def _check_bounds(self) -> None:
        """Check that no queue exceeds its limit, at any time."""
        for process in self.processes:
            hub = process.channels.node.hub
            for connection in hub.connections:
                backlog_bytes = connection.backlog_bytes - connection.granted_bytes
                # NOTE: one iteration may exceed it. Recovered bytes do not count.
                limit_bytes = 3 * BACKLOG_BYTES + 30 * MAX_PUBLICATION_BYTES
                if backlog_bytes > limit_bytes:
                    self.fail(f'{backlog_bytes} bytes are pending for {connection}')
            for local_channel in hub._channels.values():
                for subscription in local_channel.lagging:
                    pending = subscription.pending or ()
                    waiting = [p for p in pending if isinstance(p, Publication)]
                    size_bytes = sum(len(p.data) for p in waiting)
                    if size_bytes > BACKLOG_BYTES // 2:
                        self.fail(f'{subscription} has {size_bytes} pending bytes')
                    if (
                        local_channel.options.slow_reader == 'latest'
                        and len(waiting) > 1
                    ):
                        self.fail(f'{subscription} has pending {waiting}')
                if local_channel.buffered_bytes > 700 + _MAX_ITEM_BYTES:
                    self.fail(
                        f'{local_channel.channel} buffers '
                        f'{local_channel.buffered_bytes} bytes'
                    )

    async def _settle(self) -> None:
        """Wait until all faults have ended, and all clients have read everything."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))
            self._check_failure()
        for actor in self.actors:
            if actor.client is not None:
                actor.client.read_again()
        # NOTE: more than the longest of position check, repair, presence expiry and
        #   linger time, with delays.
        await asyncio.sleep(30.0)
        self._check_failure()

    async def _check_settled(self) -> None:
        stored = [p.data for log in self.store.truth.values() for p in log]
        if sorted(stored) != sorted(payload for _, payload in self.published):
            self.fail('not every publication was stored exactly once')
        for actor in self.actors:
            client = actor.client
            if client is None or client.end is not None:
                actor.forget_connection()
                continue
            # NOTE: a subscription whose request was cancelled has no client.
            for channel in list(client.connection.subscriptions):
                if channel not in actor.live:
                    self.fail(
                        f'{actor.name} is subscribed to {channel} without an event'
                    )
            for channel in actor.live:
                if channel not in client.connection.subscriptions:
                    self.fail(
                        f'{actor.name} believes that it is subscribed to {channel}'
                    )
                if channel.startswith(('log', 'deep', 'state')):
                    stored, top, _ = await self._newest(channel)
                    if channel.startswith('state') and not stored:
                        # NOTE: the log was lost, and nothing was published since.
                        continue
                    if actor.positions[channel] != top:
                        self.fail(
                            f'{actor.name} is at {actor.positions[channel]} '
                            f'in {channel}, but the log is at {top}'
                        )
        await self._check_presence()
        await self._check_return()

    async def _newest(self, channel: str) -> HistoryPage:
        options = next(o for t, o in ROUTES.items() if t[:3] == channel[:3])
        return await self.store.memory.history(
            channel, LogSettings.of(options), limit=1, reverse=True
        )

    async def _check_presence(self) -> None:
        # NOTE: the process of the watcher may have ended.
        watcher = self.watcher.client if self.watcher.client.end is None else None
        for channel in ('log:a', 'log:b', 'deep:a'):
            entries = await self.store.memory.presence(channel)
            live = {
                actor.client.connection.id: actor
                for actor in self.actors
                if actor.client is not None and channel in actor.live
            }
            if watcher is not None and channel in watcher.connection.subscriptions:
                live[watcher.connection.id] = self.watcher
            if self.calm:
                self._check_seen(channel, list(live.values()))
            if set(entries) != set(live):
                ghosts = sorted(i.user for c, i in entries.items() if c not in live)
                missing = sorted(a.name for c, a in live.items() if c not in entries)
                self.fail(f'{channel}: ghosts {ghosts}, missing {missing}')

    def _check_seen(self, channel: str, live: list[Actor]) -> None:
        """Check that the joins and leaves add up to the users that are present."""
        counts = Counter(actor.user for actor in live)
        seen = {u: n for u, n in self.watcher.seen.get(channel, {}).items() if n}
        if channel.startswith('log'):
            # NOTE: only the last announcement of a user counts, because one may be sent
            #   twice: see `falcon_channels.hub.presence`.
            counts = Counter(set(counts))
        if seen != counts:
            self.fail(f'{channel}: present {dict(counts)}, announced {seen}')

    async def _check_return(self) -> None:
        """Check that returning clients recover exactly the rest of the log."""
        for actor in self.actors:
            if actor.client is None:
                actor.connect(self.rng.randrange(len(self.processes)))
                assert actor.client is not None
                await actor.client.__aenter__()
            for channel in ('log:a', 'log:b', 'deep:a'):
                since = actor.positions.get(channel)
                if channel in actor.live or since is None:
                    continue
                page = await self.store.memory.history(
                    channel,
                    LogSettings.of(ROUTES[channel[:-1] + '{name}']),
                    since=since.offset,
                )
                expected = recovery.missed_publications(since, page)
                if expected and self._ages_soon(channel, expected[0]):
                    # NOTE: it may expire before the device is back.
                    continue
                joined = await actor.subscribe(channel, fresh=False)
                await asyncio.sleep(1.0)
                if joined.recovered != (expected is not None):
                    self.fail(f'{actor.name} back in {channel} at {since}: {joined}')
                if actor.positions[channel] != page.position:
                    self.fail(
                        f'{actor.name} back in {channel} at {since} reached '
                        f'{actor.positions[channel]}, and not {page.position}'
                    )

    def _ages_soon(self, channel: str, publication: Publication) -> bool:
        age_s = asyncio.get_running_loop().time() - (publication.time_ms / 1000 - 1e9)
        return channel.startswith('log') and 20.0 < age_s

    async def _leave(self) -> None:
        """Disconnect all clients, close everything, and check that nothing is left."""
        for actor in [*self.actors, self.watcher]:
            if actor.client is not None:
                actor.client.disconnect()
                actor.forget_connection()
        await asyncio.sleep(30.0)
        self._check_failure()
        for process in self.processes:
            hub = process.channels.node.hub
            left = {
                'connections': hub.connections,
                'users': hub.connections._by_user,
                'channels': hub._channels,
                'changing': hub._registry._changing,
                'idle': hub._registry._idle,
                'subscribed': process.broker._subscribed,
            }
            for name, items in left.items():
                if items:
                    self.fail(f'{name} left: {items}')
        if self.store.memory._presence:
            self.fail(f'presence left: {self.store.memory._presence}')
        for process in self.processes:
            await process.channels.close()
            await process.channels.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            self.fail(f'tasks left: {tasks}')


class _CriticalIsFailure(logging.Handler):
    """Fails the simulation on a critical log line, such as a failed task of the hub."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.CRITICAL)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.exc_info:
            message += f': {record.exc_info[1]!r}'
        self._world._failure = self._world._failure or message


def simulate(seed: int) -> World:
    """Run the simulation of a seed.

    Raises:
        Violation: A check failed; the message has the seed for a replay.
    """

    async def run() -> World:
        world = World(seed)
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: world.fail(f'{context}')
        )
        logger = logging.getLogger('falcon_channels')
        handler = _CriticalIsFailure(world)
        level, propagate = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.CRITICAL)
        logger.propagate = False
        try:
            await world.run()
        except Violation as ex:
            raise Violation(
                f'seed {seed}: {ex}\nreplay it: make simulate SEED={seed}'
            ) from None
        finally:
            logger.removeHandler(handler)
            # NOTE: by `setLevel`, because a logger caches which levels are enabled.
            logger.setLevel(level)
            logger.propagate = propagate
        return world

    random.seed(seed)
    return run_with_fake_clock(run())
