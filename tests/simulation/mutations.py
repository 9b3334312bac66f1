"""Defects of the hub, each in one place, and what has to notice it.

Where a mutant names no tests, the simulation has to find it. Where it cannot (the exact
words of one process, a moment too short for chance, a door of its own), tests do.
"""

from __future__ import annotations

from typing import NamedTuple

# Three places where a defect shows nothing, for the same is asked twice:
#
# * `ChannelRegistry.keep_house` asks `local_channel.idle`, though `hold` took the channel off its list.
# * `Hub._join_recovering` reads again where `kept` overflowed (``kept is None``). With
#   what is left it would find itself behind the channel, and read again.
# * `LocalChannel.repair` reads again where what came meanwhile overflowed. `_take_kept` would
#   find that out after it, and say that there is a gap.


class Mutant(NamedTuple):
    """One defect: in `module`, `old` becomes `new`.

    Attributes:
        name: What is wrong then.
        module: Below ``falcon_channels``.
        old: In the module, once or first.
        new: What stands there instead.
        tests: Arguments of pytest that notice it; ``''``: the simulation does.
    """

    name: str
    module: str
    old: str
    new: str
    tests: str = ''


MUTANTS = [
    Mutant(
        'gaps are not noticed',
        'hub/local_channel.py',
        'offset > position.offset + 1',
        'offset > position.offset + 2',
    ),
    Mutant(
        'repeats are delivered',
        'hub/local_channel.py',
        'if offset <= position.offset:\n                return False',
        'if offset < position.offset:\n                return False',
    ),
    Mutant(
        'another epoch is not noticed',
        'hub/local_channel.py',
        'if epoch != position.epoch or offset',
        'if offset',
    ),
    Mutant(
        'what comes during a repair is forgotten',
        'hub/local_channel.py',
        'if self._buffer_overflow:\n            return\n',
        'if True:\n            return\n',
    ),
    Mutant(
        'a join does not flush first',
        'hub/hub.py',
        'self._check_not_ended(subscription)\n        self._fan_out.flush_channel(local_channel)',
        'self._check_not_ended(subscription)',
    ),
    Mutant(
        'who is ahead gets everything',
        'hub/fanout.py',
        'item.offset > subscription.offset',
        'item.offset > 0',
    ),
    Mutant(
        'who is ahead stays ahead',
        'hub/local_channel.py',
        'if s.offset <= offset]',
        'if s.offset < offset]',
        'tests/hub/test_local_channel.py',
    ),
    Mutant(
        'a trimmed log counts as recovered',
        'protocol/recovery.py',
        'publications[0].offset != asked.offset + 1',
        'publications[0].offset < 0',
    ),
    Mutant(
        'a read cut short counts as recovered',
        'protocol/recovery.py',
        'return [] if top.offset == asked.offset else None',
        'return []',
    ),
    Mutant(
        'any epoch recovers',
        'protocol/recovery.py',
        'asked.epoch and asked.epoch != top.epoch',
        'False',
    ),
    Mutant(
        'what is published during a join is forgotten',
        'hub/connection.py',
        'self.buffered.append((publication, epoch))',
        'pass',
        'tests/hub/test_joining.py',
    ),
    Mutant(
        'a restored link is not followed by a repair',
        'hub/hub.py',
        'self._repairs.begin_all()',
        'self._repairs.links += 1',
    ),
    Mutant(
        'a link that is restored during a read is not noticed',
        'hub/repair.py',
        'if links != self.links:',
        'if False:',
        'tests/hub/test_joining.py',
    ),
    Mutant(
        'a link that is restored while a channel opens is not noticed',
        'hub/hub.py',
        '(links != self._repairs.links and local_channel.options.history_size)',
        'False',
        'tests/hub/test_joining.py',
    ),
    Mutant(
        'lost publications are passed over',
        'hub/repair.py',
        'self._on_lost(local_channel)\n',
        'local_channel.batch.clear()\n',
    ),
    Mutant(
        'slow readers are never closed',
        'hub/fanout.py',
        "if local_channel.options.slow_reader == 'close':",
        "if local_channel.options.slow_reader == 'never':",
    ),
    Mutant(
        'what waits for slow readers is not bounded',
        'hub/connection.py',
        'while len(pending) > 1 and self.pending_bytes > limit_bytes:',
        'while False:',
    ),
    Mutant(
        'slow readers get what waited after what is new',
        'hub/hub.py',
        'items, epoch = local_channel.catch_up(subscription)',
        'items, epoch = local_channel.catch_up(subscription)[0][1:], local_channel.position.epoch',
    ),
    Mutant(
        'a leave during a join leaves a ghost',
        'hub/hub.py',
        'if subscription.ended or subscription.connection.closed:',
        'if False:',
    ),
    Mutant(
        'who left while being entered stays present',
        'hub/presence.py',
        'if subscription.ended:\n                # NOTE: it left',
        'if False:\n                # NOTE: it left',
    ),
    Mutant(
        'presence is not refreshed',
        'hub/presence.py',
        'await asyncio.sleep(ttl_s / 3)',
        'await asyncio.sleep(ttl_s * 3)',
    ),
    Mutant(
        'presence is not removed',
        'hub/presence.py',
        'self._leaving.append(subscription)',
        'self._leaving.clear()',
    ),
    Mutant(
        'joins and leaves overtake each other',
        'hub/presence.py',
        'async with turn.lock:\n                yield',
        'yield',
        'tests/brokers/test_presence_races.py',
    ),
    Mutant(
        'idle channels stay subscribed',
        'hub/channel_registry.py',
        'await self._unsubscribe(local_channel.channel)',
        'pass',
    ),
    Mutant(
        'a connection that has ended is added',
        'hub/hub.py',
        'if connection.closed:\n            raise ClosedError',
        'if False:\n            raise ClosedError',
    ),
    Mutant(
        'a subscription whose answer was lost stays at the broker',
        'hub/channel_registry.py',
        'await self._unsubscribe(channel)\n            raise',
        'pass\n            raise',
    ),
    Mutant(
        'the last publication may be lost',
        'hub/repair.py',
        'if local_channel.position == before != page.position:',
        'if False:',
    ),
    # --- recovery --------------------------------------------------------------------
    Mutant(
        'a recovery reads one too many',
        'hub/hub.py',
        'since=since.offset,',
        'since=max(0, since.offset - 1),',
    ),
    Mutant(
        'a recovery reads one too few',
        'hub/hub.py',
        'since=since.offset,',
        'since=since.offset + 1,',
    ),
    Mutant(
        'the recovered end before what came meanwhile',
        'protocol/recovery.py',
        '[*publications, *following]',
        'publications',
        'tests/hub/test_joining.py tests/protocol/test_recovery.py',
    ),
    Mutant(
        'what came meanwhile may have gaps',
        'protocol/recovery.py',
        'if publication.offset != offset + 1:\n            return None',
        'if False:\n            return None',
        'tests/protocol/test_recovery.py',
    ),
    Mutant(
        'what was read and came meanwhile comes twice',
        'protocol/recovery.py',
        'if publication.offset <= offset:\n            continue',
        'if False:\n            continue',
        'tests/protocol/test_recovery.py',
    ),
    Mutant(
        'who recovers joins another log',
        'hub/hub.py',
        'if page.position.epoch != local_channel.position.epoch:\n'
        '                await self._wait_for_same_log(local_channel)\n'
        '                continue\n'
        '            buffered = subscription.buffered',
        'buffered = subscription.buffered',
        'tests/hub/test_joining.py',
    ),
    Mutant(
        'who recovers less than the channel has joins all the same',
        'hub/hub.py',
        'if found is None or found.position.offset < local_channel.position.offset:',
        'if found is None:',
        'tests/hub/test_joining.py',
    ),
    Mutant(
        'who recovers is not ahead',
        'hub/hub.py',
        'local_channel.add(subscription, found.position.offset)',
        'local_channel.add(subscription)',
    ),
    Mutant(
        'who recovers the latest gets one that is older',
        'hub/hub.py',
        'if buffered and buffered[-1][0].offset > position.offset:',
        'if False:',
        'tests/hub/test_joining.py',
    ),
    Mutant(
        'who recovers the latest joins another log',
        'hub/hub.py',
        'if page.position.epoch != local_channel.position.epoch:\n'
        '                await self._wait_for_same_log(local_channel)\n'
        '                continue\n'
        '            self._fan_out',
        'self._fan_out',
        'tests/hub/test_joining.py',
    ),
    Mutant(
        'a client counts what it recovered twice',
        'endpoint/commands.py',
        'offset = since.offset\n    return',
        'offset = since.offset + len(joined.publications)\n    return',
        'tests/endpoint/test_delivery.py',
    ),
    # --- repair ----------------------------------------------------------------------
    Mutant(
        'what came while a channel opened is forgotten',
        'hub/local_channel.py',
        'self.state = ChannelState.LIVE\n        return self._take_buffered()',
        'self.state = ChannelState.LIVE\n        self._clear_buffer()\n        return False',
        'tests/hub/test_joining.py',
    ),
    Mutant(
        'a gap while a channel opened is not repaired',
        'hub/hub.py',
        'if gap or (links',
        'if (links',
    ),
    Mutant(
        'a repair forgets what came meanwhile',
        'hub/local_channel.py',
        'gap = self._take_buffered()',
        'gap = self._clear_buffer()',
    ),
    Mutant(
        'what overflowed while a channel opened counts as nothing',
        'hub/local_channel.py',
        'if overflow or (',
        'if (',
        'tests/hub/test_joining.py',
    ),
    Mutant(
        'what is kept during a repair is not bounded',
        'hub/local_channel.py',
        'if self.buffered_bytes > self._max_buffered_bytes:',
        'if False:',
    ),
    Mutant(
        'a repair tells subscribers that lost publications nothing',
        'hub/repair.py',
        'if outcome is None or attempts >= _ATTEMPTS:',
        'if outcome is None:\n                return\n            if False:',
    ),
    # --- slow readers ----------------------------------------------------------------
    Mutant(
        'what waits for slow readers loses its order',
        'hub/connection.py',
        'pending.append(item)',
        'pending.appendleft(item)',
    ),
    Mutant(
        'the newest is dropped, and not the oldest',
        'hub/connection.py',
        '_size_bytes(pending.popleft())',
        '_size_bytes(pending.pop())',
        'tests/hub/test_local_channel.py tests/hub/test_fanout.py',
    ),
    Mutant(
        'all that is older waits beside the latest',
        'hub/connection.py',
        'if only_latest and isinstance(item, Publication):',
        'if False:',
    ),
    Mutant(
        'what waits takes the epoch of another log',
        'hub/local_channel.py',
        'return subscription.stop_lagging()',
        'return subscription.stop_lagging()[0], self.position.epoch',
        'tests/hub/test_local_channel.py',
    ),
    Mutant(
        'what waits is of two logs',
        'hub/connection.py',
        'if self._pending_epoch != epoch:',
        'if False:',
        'tests/hub/test_local_channel.py',
    ),
    Mutant(
        'who reads again stays slow',
        'hub/hub.py',
        'if subscription.state is State.LAGGING:',
        'if False:',
    ),
    Mutant(
        'who recovered may be slow for ever',
        'hub/hub.py',
        'connection.on_all_read()',
        'pass',
        'tests/hub/test_fanout.py',
    ),
    Mutant(
        'what was recovered and read is a credit',
        'hub/fanout.py',
        'elif connection.granted_bytes:',
        'elif False:',
        'tests/hub/test_fanout.py',
    ),
    Mutant(
        'publications overtake the reply before them',
        'hub/fanout.py',
        'if connection.out is not None:\n',
        'if False:\n',
    ),
    Mutant(
        'a socket that took a part gets it again',
        'hub/fanout.py',
        'connection.write(blob[sent:])',
        'connection.write(blob)',
        'tests/server/test_many_sockets.py',
    ),
    Mutant(
        'a link whose state is not known goes on',
        'hub/fanout.py',
        'if sent < 0:',
        'if False:',
        'tests/server/test_many_sockets.py',
    ),
    Mutant(
        'a result that is not whole is taken for whole',
        'transports/io_uring.py',
        'and self._results[at : at + count] == sizes',
        'and True',
        'tests/transports',
    ),
    Mutant(
        'a child process sends by the ring of its parent',
        'transports/io_uring.py',
        'or os.getpid() != self._pid',
        'or False',
        'tests/transports',
    ),
    # --- presence --------------------------------------------------------------------
    Mutant(
        'a user who comes back elsewhere is held to have left',
        'hub/presence.py',
        'await self._announce_if_back(change.channel, change.info.user)',
        'pass',
        'tests/hub/test_presence.py',
    ),
    Mutant(
        'who is said to be back is not looked for again',
        'hub/presence.py',
        'if await broker.has_user(channel, user):\n                return\n'
        "            await self._announce(channel, Signal('leave', info))",
        'return',
        'tests/hub/test_presence.py',
    ),
    Mutant(
        'a lost connection has no grace',
        'hub/presence.py',
        'grace_s = options.leave_grace_s if subscription.connection.closed else 0.0',
        'grace_s = 0.0',
        'tests/hub/test_presence.py',
    ),
    Mutant(
        'who leaves on purpose has grace',
        'hub/presence.py',
        'grace_s = options.leave_grace_s if subscription.connection.closed else 0.0',
        'grace_s = options.leave_grace_s',
        'tests/hub/test_presence.py',
    ),
    Mutant(
        'nobody tells that the entry of a dead process expired',
        'hub/presence.py',
        'untold.extend(changes)',
        'pass',
        'tests/hub/test_presence.py',
    ),
    Mutant(
        'a leave that could not be told is forgotten',
        'hub/presence.py',
        'self._untold.append(change)',
        'pass',
        'tests/hub/test_presence.py',
    ),
    Mutant(
        'who was held to be dead is not told of again',
        'hub/presence.py',
        'if begun_s - refreshed_s >= ttl_s:',
        'if False:',
        'tests/hub/test_presence.py',
    ),
    Mutant(
        'a join that could not be told is forgotten',
        'hub/presence.py',
        'if subscription in kept and (again or not kept[subscription]):',
        'if subscription in kept and again:',
        'tests/hub/test_presence.py',
    ),
    Mutant(
        'an entry that could not be made stays unmade',
        'hub/presence.py',
        '            if options.presence:\n                self._keep(',
        '            if announced:\n                self._keep(',
    ),
    # --- revocations -----------------------------------------------------------------
    Mutant(
        'a revocation is forgotten by who subscribes again',
        'access/subscribing.py',
        'await authorization.refuse_revoked(\n'
        '            self._broker, subscription.user, subscription.channel\n        )',
        'pass',
        'tests/cluster/test_user_commands.py',
    ),
    Mutant(
        'a revocation during a join is not noticed',
        'access/subscribing.py',
        'if not user or not await',
        'if True or not await',
        'tests/access/test_subscribing.py',
    ),
    Mutant(
        'a revocation ends nothing that is there',
        'cluster/user_commands.py',
        'await self.unsubscribe_user(user, channel)',
        'pass',
        'tests/cluster/test_user_commands.py',
    ),
    Mutant(
        'who was revoked may publish and read without a subscription',
        'access/authorization.py',
        'if not is_subscribed(connection, channel):\n        await',
        'if False:\n        await',
        'tests/endpoint/test_authorization.py',
    ),
    # --- publishing ------------------------------------------------------------------
    Mutant(
        'a key does not keep a repeat out',
        'access/publishing.py',
        'idempotency_key=idempotency_key,\n            connection=connection,\n',
        'connection=connection,\n',
    ),
    # --- the client protocol ---------------------------------------------------------
    Mutant(
        'what gathers before a connect reply is not looked at',
        'endpoint/client_connection.py',
        'self._connection.hub.on_output(self._connection)',
        'pass',
        'tests/endpoint/test_slow_broker.py',
    ),
    Mutant(
        'who lagged before the connect reply lags for ever',
        'endpoint/client_connection.py',
        'self.hub.catch_up(self)',
        'pass',
        'tests/endpoint/test_slow_broker.py',
    ),
    Mutant(
        'many connections multiply the rate of a user',
        'endpoint/client_connection.py',
        'user_rates.take(self.user, now_s)',
        'user_rates.take(self.id, now_s)',
        'tests/endpoint/test_rates.py',
    ),
    Mutant(
        'what is sent before the connect reply comes before it',
        'endpoint/client_connection.py',
        'self.out = [reply, *buffered[1:]]',
        'self.out = [*buffered[1:], reply]',
        'tests/endpoint/test_delivery.py tests/endpoint/test_slow_broker.py',
    ),
    Mutant(
        'a read of the log serves who asked after it began',
        'hub/shared_reads.py',
        'read = self._due.get(question)\n',
        'read = self._due.get(question) or self._running.get(question)\n',
        'tests/hub/test_shared_reads.py',
    ),
    Mutant(
        'who recovers gets what had the same offset in another log',
        'hub/shared_encodings.py',
        'piece[0] is not publication and piece[0] != publication',
        'False',
        'tests/hub/test_shared_encodings.py',
    ),
    Mutant(
        'what was encoded for many stays',
        'hub/shared_encodings.py',
        'loop.call_later(KEEP_S, self.clear)',
        'loop.call_later(KEEP_S, int)',
        'tests/hub/test_shared_encodings.py --timeout 10',
    ),
]
