"""Mutants: defects of the hub, each in one place, and the tests that notice them.

A mutant that names no tests must be found by the simulation. Tests are named where the
simulation cannot find it: the defect is in code that it does not run, shows only in the
text of one process, or needs a moment too short for random events.
"""

from __future__ import annotations

from typing import NamedTuple

# NOTE: three conditions have no mutant, because other code checks the same again:
#
# * `ChannelRegistry.run_housekeeping` checks `local_channel.idle`, although `acquire` has
#   removed the channel from the dict of idle channels.
# * `Hub._join_recovering` reads again after an overflow (``buffered is None``). Without
#   that check, the page would end before the position of the channel, and be read again.
# * `LocalChannel.repair` reads again after a buffer overflow. Without that check,
#   `_take_buffered` would find the overflow, and report a gap.


class Mutant(NamedTuple):
    """A defect: `new` replaces the first occurrence of `old` in `module`.

    Attributes:
        name: Description of the wrong behaviour.
        module: Path of the module below ``falcon_channels``.
        old: Text in the module.
        new: Replacement with the defect.
        tests: Arguments of pytest that must fail; ``''`` for the simulation.
    """

    name: str
    module: str
    old: str
    new: str
    tests: str = ''


MUTANTS = [
    Mutant(
        'LocalChannel.take ignores a gap of one publication',
        'hub/local_channel.py',
        'offset > position.offset + 1',
        'offset > position.offset + 2',
    ),
    Mutant(
        'LocalChannel.take delivers a repeated publication',
        'hub/local_channel.py',
        'if offset <= position.offset:\n                return False',
        'if offset < position.offset:\n                return False',
    ),
    Mutant(
        'LocalChannel.take ignores another epoch',
        'hub/local_channel.py',
        'if epoch != position.epoch or offset',
        'if offset',
    ),
    Mutant(
        'publications during a repair are not buffered',
        'hub/local_channel.py',
        'if self._buffer_overflow:\n            return\n',
        'if True:\n            return\n',
    ),
    Mutant(
        'a join does not flush the batch first',
        'hub/hub.py',
        'self._check_not_ended(subscription)\n        self._fan_out.flush_channel(local_channel)',
        'self._check_not_ended(subscription)',
    ),
    Mutant(
        'an AHEAD subscription receives publications twice',
        'hub/fanout.py',
        'item.offset > subscription.offset',
        'item.offset > 0',
    ),
    Mutant(
        'an AHEAD subscription becomes LIVE too late',
        'hub/local_channel.py',
        'if s.offset <= offset]',
        'if s.offset < offset]',
        'tests/hub/test_local_channel.py',
    ),
    Mutant(
        'recovery from a trimmed log succeeds',
        'protocol/recovery.py',
        'publications[0].offset != asked.offset + 1',
        'publications[0].offset < 0',
    ),
    Mutant(
        'recovery from an incomplete page succeeds',
        'protocol/recovery.py',
        'return [] if top.offset == asked.offset else None',
        'return []',
    ),
    Mutant(
        'recovery from another epoch succeeds',
        'protocol/recovery.py',
        'asked.epoch and asked.epoch != top.epoch',
        'False',
    ),
    Mutant(
        'publications during a join are not buffered',
        'hub/connection.py',
        'self.buffered.append((publication, epoch))',
        'pass',
        'tests/hub/test_joining.py',
    ),
    Mutant(
        'a restored link starts no repair',
        'hub/hub.py',
        'self._repairs.begin_all()',
        'self._repairs.links += 1',
    ),
    Mutant(
        'a link restored during a repair is ignored',
        'hub/repair.py',
        'if links != self.links:',
        'if False:',
        'tests/hub/test_joining.py',
    ),
    Mutant(
        'a link restored while a channel opens is ignored',
        'hub/hub.py',
        '(links != self._repairs.links and local_channel.options.history_size)',
        'False',
        'tests/hub/test_joining.py',
    ),
    Mutant(
        'lost publications end no subscription',
        'hub/repair.py',
        'attempts = 0\n                self._on_lost(local_channel)\n',
        'attempts = 0\n                local_channel.batch.clear()\n',
    ),
    Mutant(
        'slow readers are never disconnected',
        'hub/fanout.py',
        "if local_channel.options.slow_reader == 'close':",
        "if local_channel.options.slow_reader == 'never':",
    ),
    Mutant(
        'pending items have no limit',
        'hub/connection.py',
        'while len(pending) > 1 and self.pending_bytes > limit_bytes:',
        'while False:',
    ),
    Mutant(
        'pending items are lost when a slow reader catches up',
        'hub/hub.py',
        'items, epoch = local_channel.catch_up(subscription)',
        'items, epoch = local_channel.catch_up(subscription)[0][1:], local_channel.position.epoch',
    ),
    Mutant(
        'a subscription that ended during its join is added',
        'hub/hub.py',
        'if subscription.ended or subscription.connection.closed:',
        'if False:',
    ),
    Mutant(
        'a leave during presence entry keeps the entry',
        'hub/presence.py',
        'if subscription.ended:\n                # NOTE: it ended',
        'if False:\n                # NOTE: it ended',
    ),
    Mutant(
        'presence entries are refreshed too late',
        'hub/presence.py',
        'interval_s = ttl_s / 3',
        'interval_s = ttl_s * 3',
    ),
    Mutant(
        'presence entries are not removed',
        'hub/presence.py',
        'self._leaving.append(subscription)',
        'self._leaving.clear()',
    ),
    Mutant(
        'presence changes of one user are not serialized',
        'hub/presence.py',
        'async with user_lock.lock:\n                yield',
        'yield',
        'tests/brokers/test_presence_races.py',
    ),
    Mutant(
        'idle channels stay subscribed at the broker',
        'hub/channel_registry.py',
        'await self._unsubscribe(local_channel.channel)',
        'pass',
    ),
    Mutant(
        'a connection that has ended is registered',
        'hub/hub.py',
        'if connection.closed:\n            raise ClosedError',
        'if False:\n            raise ClosedError',
    ),
    Mutant(
        'a failed subscribe is not undone at the broker',
        'hub/channel_registry.py',
        'await self._unsubscribe(channel)\n            raise',
        'pass\n            raise',
    ),
    Mutant(
        'the position check finds no loss',
        'hub/repair.py',
        'if local_channel.position == before != page.position:',
        'if False:',
    ),
    # --- recovery --------------------------------------------------------------------
    Mutant(
        'recovery reads from one offset too early',
        'hub/hub.py',
        'since=since.offset,',
        'since=max(0, since.offset - 1),',
    ),
    Mutant(
        'recovery reads from one offset too late',
        'hub/hub.py',
        'since=since.offset,',
        'since=since.offset + 1,',
    ),
    Mutant(
        'recovery omits publications announced during the read',
        'protocol/recovery.py',
        '[*publications, *following]',
        'publications',
        'tests/hub/test_joining.py tests/protocol/test_recovery.py',
    ),
    Mutant(
        'recovery ignores a gap in the announced publications',
        'protocol/recovery.py',
        'if publication.offset != offset + 1:\n            return None',
        'if False:\n            return None',
        'tests/protocol/test_recovery.py',
    ),
    Mutant(
        'recovery returns announced publications twice',
        'protocol/recovery.py',
        'if publication.offset <= offset:\n            continue',
        'if False:\n            continue',
        'tests/protocol/test_recovery.py',
    ),
    Mutant(
        'a join continues in another log than the channel',
        'hub/hub.py',
        'if page.position.epoch != local_channel.position.epoch:',
        'if False:',
        'tests/hub/test_joining.py',
    ),
    Mutant(
        'recovery joins although the page is older than the channel',
        'hub/hub.py',
        'if found is None or found.position.offset < local_channel.position.offset:',
        'if found is None:',
        'tests/hub/test_joining.py',
    ),
    Mutant(
        'a recovered subscription is not AHEAD',
        'hub/hub.py',
        'local_channel.add(subscription, found.position.offset)',
        'local_channel.add(subscription)',
    ),
    Mutant(
        'the fan-out ignores filters',
        'hub/fanout.py',
        'selected = selection.select(items)',
        'selected = list(items)',
        'tests/hub/test_filtered_delivery.py',
    ),
    Mutant(
        'the latest publication is recovered although it does not match',
        'hub/hub.py',
        'matching = subscription.select(visible)[:1]',
        'matching = visible[:1]',
        'tests/hub/test_filtered_delivery.py',
    ),
    Mutant(
        'joins are sent to clients that did not ask for them',
        'transports/encoders.py',
        'if not self._signals:',
        'if not self._signals and not items:',
        'tests/endpoint/test_joins_and_leaves.py',
    ),
    Mutant(
        'a publication that is not stored replaces a state',
        'hub/connection.py',
        'if epoch and not item.offset:',
        'if not epoch and not item.offset:',
        'tests/hub/test_publications_without_history.py',
    ),
    Mutant(
        'the latest publication is sent to a client that has it',
        'protocol/recovery.py',
        'return latest[0].offset <= asked.offset',
        'return False',
        'tests/protocol/test_recovery.py',
    ),
    Mutant(
        'a publication that does not match replaces a pending one',
        'hub/local_channel.py',
        'subscription.select(items)',
        'items',
        'tests/hub/test_filtered_delivery.py',
    ),
    Mutant(
        'the latest publication is not the newest one',
        'hub/hub.py',
        'recovery.recover_latest(read.page, read.live)',
        'recovery.recover_latest(read.page)',
        'tests/hub/test_joining.py',
    ),
    Mutant(
        'a subscribe reply counts recovered publications twice',
        'endpoint/commands.py',
        'offset = since.offset\n    return',
        'offset = since.offset + len(joined.publications)\n    return',
        'tests/endpoint/test_delivery.py',
    ),
    # --- faults ----------------------------------------------------------------------
    Mutant(
        'the batch of the fan-out keeps a live view of a group',
        'hub/fanout.py',
        'list(group.items()), blob',
        'group.items(), blob',
        'tests/hub/test_fault_isolation.py',
    ),
    Mutant(
        'a publication overtakes the queued start of a subscription',
        'hub/fanout.py',
        'elif not sent and connection.out is not None:',
        'elif False:',
        'tests/hub/test_fault_isolation.py',
    ),
    Mutant(
        'an error in a delivery stops the event-loop iteration',
        'hub/fanout.py',
        'self._on_lost(local_channel)',
        'raise',
        'tests/hub/test_fault_isolation.py',
    ),
    Mutant(
        'a failed task leaves its connection waiting',
        'hub/hub.py',
        'if connection is not None:\n            connection.disconnect(*DISCONNECT',
        'if False:\n            connection.disconnect(*DISCONNECT',
        'tests/hub/test_fault_isolation.py',
    ),
    # --- repair ----------------------------------------------------------------------
    Mutant(
        'publications while a channel opens are dropped',
        'hub/local_channel.py',
        'self.state = ChannelState.LIVE\n        return self._take_buffered()',
        'self.state = ChannelState.LIVE\n        self._clear_buffer()\n        return False',
        'tests/hub/test_joining.py',
    ),
    Mutant(
        'a gap while a channel opens is not repaired',
        'hub/hub.py',
        'if gap or (links',
        'if (links',
    ),
    Mutant(
        'a repair drops the buffered publications',
        'hub/local_channel.py',
        'gap = self._take_buffered()',
        'gap = self._clear_buffer()',
    ),
    Mutant(
        'a buffer overflow while a channel opens is ignored',
        'hub/local_channel.py',
        'if overflow or (',
        'if (',
        'tests/hub/test_joining.py',
    ),
    Mutant(
        'the buffer of a repair has no limit',
        'hub/local_channel.py',
        'if self.buffered_bytes > self._max_buffered_bytes:',
        'if False:',
    ),
    Mutant(
        'a failed repair ends no subscription',
        'hub/repair.py',
        'if outcome is None or attempts >= _ATTEMPTS:',
        'if outcome is None:\n                return\n            if False:',
    ),
    # --- slow readers ----------------------------------------------------------------
    Mutant(
        'pending items lose their order',
        'hub/connection.py',
        'pending.append(item)',
        'pending.appendleft(item)',
    ),
    Mutant(
        'the newest pending item is dropped, and not the oldest',
        'hub/connection.py',
        '_size_bytes(pending.popleft())',
        '_size_bytes(pending.pop())',
        'tests/hub/test_local_channel.py tests/hub/test_fanout.py',
    ),
    Mutant(
        'older publications stay pending beside the latest',
        'hub/connection.py',
        'if only_latest and isinstance(item, Publication):',
        'if False:',
    ),
    Mutant(
        'pending items get the epoch of another log',
        'hub/local_channel.py',
        'items, epoch = subscription.stop_lagging()',
        'items, epoch = subscription.stop_lagging()[0], self.position.epoch',
        'tests/hub/test_local_channel.py',
    ),
    Mutant(
        'pending items belong to two logs',
        'hub/connection.py',
        'if self._pending_epoch != epoch:',
        'if False:',
        'tests/hub/test_local_channel.py',
    ),
    Mutant(
        'a subscription stays LAGGING',
        'hub/hub.py',
        'if subscription.state is State.LAGGING:',
        'if False:',
    ),
    Mutant(
        'granted bytes are never reset on a writable transport',
        'hub/hub.py',
        'connection.on_all_read()',
        'pass',
        'tests/hub/test_fanout.py',
    ),
    Mutant(
        'granted bytes are not reset after a complete write',
        'hub/fanout.py',
        'elif connection.granted_bytes:',
        'elif False:',
        'tests/hub/test_fanout.py',
    ),
    Mutant(
        'publications overtake the reply before them',
        'hub/fanout.py',
        'in group.items():\n            if connection.out is not None:\n',
        'in group.items():\n            if False:\n',
    ),
    Mutant(
        'publications overtake the reply before them if several channels deliver',
        'hub/fanout.py',
        'connection = member\n            if connection.out is not None:\n',
        'connection = member\n            if False:\n',
    ),
    Mutant(
        'bytes that a socket took are written again',
        'hub/fanout.py',
        'connection.write(blob[sent:])',
        'connection.write(blob)',
        'tests/server/test_many_sockets.py',
    ),
    Mutant(
        'a socket in an unknown state stays open',
        'hub/fanout.py',
        'if sent < 0:',
        'if False:',
        'tests/server/test_many_sockets.py',
    ),
    Mutant(
        'an incomplete io_uring result counts as complete',
        'transports/io_uring.py',
        'and self._results[at : at + count] == sizes',
        'and True',
        'tests/transports',
    ),
    Mutant(
        "a child process uses its parent's io_uring",
        'transports/io_uring.py',
        'or os.getpid() != self._pid',
        'or False',
        'tests/transports',
    ),
    # --- presence --------------------------------------------------------------------
    Mutant(
        'a join overtaken by a leave is not announced again',
        'hub/presence.py',
        'await self._announce_if_back(change.channel, change.info.user)',
        'pass',
        'tests/hub/test_presence.py',
    ),
    Mutant(
        'presence is not checked again after a repeated join',
        'hub/presence.py',
        'if await broker.has_user(channel, user):\n                return\n'
        "            await self._announce(channel, Signal('leave', info))",
        'return',
        'tests/hub/test_presence.py',
    ),
    Mutant(
        'a lost connection has no grace period',
        'hub/presence.py',
        'grace_s = options.leave_grace_s if subscription.connection.closed else 0.0',
        'grace_s = 0.0',
        'tests/hub/test_presence.py',
    ),
    Mutant(
        'an unsubscribe has a grace period',
        'hub/presence.py',
        'grace_s = options.leave_grace_s if subscription.connection.closed else 0.0',
        'grace_s = options.leave_grace_s',
        'tests/hub/test_presence.py',
    ),
    Mutant(
        'leaves of expired entries are not announced',
        'hub/presence.py',
        'unannounced.extend(changes)',
        'pass',
        'tests/hub/test_presence.py',
    ),
    Mutant(
        'a leave whose announcement failed is dropped',
        'hub/presence.py',
        'self._unannounced.append(change)',
        'pass',
        'tests/hub/test_presence.py',
    ),
    Mutant(
        'entries that expired by mistake are not announced again',
        'hub/presence.py',
        'return is_missing and added.store == store',
        'return False',
        'tests/hub/test_presence.py',
    ),
    Mutant(
        'a join whose announcement failed is dropped',
        'hub/presence.py',
        'if entered[subscription] is None or _was_removed(',
        'if _was_removed(',
        'tests/hub/test_presence.py',
    ),
    Mutant(
        'an entry that could not be added is not refreshed',
        'hub/presence.py',
        '            if options.presence:\n                self._keep_refreshed(',
        '            if store is not None:\n                self._keep_refreshed(',
    ),
    Mutant(
        'presence expires right after an outage',
        'hub/presence.py',
        'if loop.time() < settled_s:',
        'if False:',
        'tests/hub/test_presence.py',
    ),
    # --- brokers ---------------------------------------------------------------------
    Mutant(
        'the clock of a SQLite file follows the wall clock',
        'brokers/sqlite/clock.py',
        'if self.boot != BOOT or now_ms < self.clock_ms:',
        'if True:',
        'tests/contract/test_sqlite_contract.py',
    ),
    Mutant(
        'a publish without history succeeds while the link is lost',
        'brokers/redis/broker.py',
        'if not listener.up:\n                raise listener.lost_error()',
        'pass',
        'tests/brokers/test_lost_link.py',
    ),
    Mutant(
        'lost revocations are not written again',
        'brokers/redis/broker.py',
        'await self._write_lost_revocations()',
        'pass',
        'tests/brokers/test_redis_faults.py',
    ),
    # --- revocations -----------------------------------------------------------------
    Mutant(
        'a revoked user may subscribe again',
        'access/subscribing.py',
        'await self._authorizer.refuse_revoked(subscription.user, subscription.channel)',
        'pass',
        'tests/cluster/test_user_commands.py',
    ),
    Mutant(
        'a revocation during a join is ignored',
        'access/subscribing.py',
        'if not await self._authorizer',
        'if True or not await self._authorizer',
        'tests/access/test_subscribing.py',
    ),
    Mutant(
        'a revocation ends no existing subscription',
        'cluster/user_commands.py',
        "await self._unsubscribe(user, channel, '', '', UNSUBSCRIBE_SERVER.code)",
        'pass',
        'tests/cluster/test_user_commands.py',
    ),
    Mutant(
        'a revoked user may publish and read without a subscription',
        'access/authorization.py',
        'if not is_subscribed(connection, channel):\n            await',
        'if False:\n            await',
        'tests/endpoint/test_authorization.py',
    ),
    Mutant(
        'a right to publish that is taken away while a responder waits is used',
        'access/authorization.py',
        'while connection.num_commands != num_commands:\n            # SECURITY',
        'while False:\n            # SECURITY',
        'tests/endpoint/test_rights_taken_away.py',
    ),
    Mutant(
        'a right to read that is taken away while a responder waits is used',
        'access/authorization.py',
        'while connection.num_commands != num_commands:\n            num_commands',
        'while False:\n            num_commands',
        'tests/endpoint/test_rights_taken_away.py',
    ),
    Mutant(
        'a command does not reach a connection whose user is set after it',
        'cluster/dispatch.py',
        'for command in missed:',
        'for command in []:',
        'tests/endpoint/test_rights_taken_away.py',
    ),
    # --- publishing ------------------------------------------------------------------
    Mutant(
        'publish ignores the idempotency key',
        'access/publishing.py',
        'idempotency_key=idempotency_key,\n            connection=connection,\n',
        'connection=connection,\n',
    ),
    # --- the client protocol ---------------------------------------------------------
    Mutant(
        'output before the connect reply has no limit',
        'endpoint/client_connection.py',
        'self._connection.hub.on_output(self._connection)',
        'pass',
        'tests/endpoint/test_slow_broker.py',
    ),
    Mutant(
        'a subscription that lagged before the connect reply stays LAGGING',
        'endpoint/client_connection.py',
        'self.hub.catch_up(self)',
        'pass',
        'tests/endpoint/test_slow_broker.py',
    ),
    Mutant(
        'the rate limit of a user applies to each connection',
        'endpoint/client_connection.py',
        'user_rates.take(self.user, now_s)',
        'user_rates.take(self.id, now_s)',
        'tests/endpoint/test_user_rate.py',
    ),
    Mutant(
        'output before the connect reply overtakes it',
        'endpoint/client_connection.py',
        'self.out = [reply, *buffered[1:]]',
        'self.out = [*buffered[1:], reply]',
        'tests/endpoint/test_delivery.py tests/endpoint/test_slow_broker.py',
    ),
    Mutant(
        'a shared read serves a request made after it began',
        'hub/shared_reads.py',
        'read = self._due.get(request)\n',
        'read = self._due.get(request) or self._running.get(request)\n',
        'tests/hub/test_shared_reads.py',
    ),
    Mutant(
        'a shared encoding of another publication is returned',
        'hub/shared_encodings.py',
        'piece[0] is not publication and piece[0] != publication',
        'False',
        'tests/hub/test_shared_encodings.py',
    ),
    Mutant(
        'shared encodings are never dropped',
        'hub/shared_encodings.py',
        'loop.call_later(CACHE_S, self.clear)',
        'loop.call_later(CACHE_S, int)',
        'tests/hub/test_shared_encodings.py --timeout 10',
    ),
    Mutant(
        'a delta is made without the base of a client that has just joined',
        'hub/delta_groups.py',
        'yield self.out_of_step, with_first_whole(following)',
        'yield self.out_of_step, following',
    ),
    Mutant(
        'a delta is made against a base that a client does not have',
        'hub/delta_groups.py',
        'and (publication is base or publication.data == base.data)',
        'and True',
    ),
    Mutant(
        'the base of a channel does not move on',
        'hub/delta_groups.py',
        'self.base = last\n',
        'self.base = self.base or last\n',
    ),
    Mutant(
        'a client that recovered gets the next publication whole',
        'hub/hub.py',
        'local_channel.note_received(subscription, joined.publications)',
        'local_channel.note_received(subscription, [])',
        'tests/hub/test_delta_delivery.py',
    ),
    Mutant(
        'a client with a filter gets deltas',
        'hub/connection.py',
        'return self._delta and self.selection is None',
        'return self._delta',
        'tests/hub/test_delta_delivery.py',
    ),
    Mutant(
        'a publication with delta=False is a delta',
        'protocol/deltas.py',
        'item.delta and not (item.binary or base.binary)',
        'not (item.binary or base.binary)',
        'tests/protocol/test_deltas.py',
    ),
    Mutant(
        'a command of a delta divides a character',
        'protocol/fossil.py',
        'return text[index] & 0xC0 == 0x80',
        'return False',
        'tests/protocol/test_fossil.py',
    ),
    Mutant(
        'the base of a slow reader that missed publications is stored',
        'hub/local_channel.py',
        'self.deltas.set_base(subscription, None)',
        'self.deltas.set_base(subscription, last_publication(items))',
        'tests/hub/test_delta_delivery.py',
    ),
    Mutant(
        'an ended channel drops the pending items of slow clients',
        'hub/hub.py',
        'self._catch_up(subscription)\n                self.finish',
        'self.finish',
        'tests/hub/test_channel_end.py',
    ),
    Mutant(
        'an ended channel ends before its last batch is written',
        'hub/fanout.py',
        'self._write_batch()\n        for local_channel in ended:\n'
        '            self._on_ended(local_channel)\n',
        'for local_channel in ended:\n'
        '            self._on_ended(local_channel)\n        self._write_batch()\n',
        'tests/plain/test_channel_end.py tests/endpoint/test_channel_end.py',
    ),
    Mutant(
        'an ended channel stays ended after its history was removed',
        'hub/local_channel.py',
        'if page.position.offset == self.position.offset:\n            self.end',
        'if False:\n            self.end',
        'tests/hub/test_channel_end.py',
    ),
    Mutant(
        'an ended channel is not noticed by a repair',
        'hub/local_channel.py',
        'self.end = page.end\n        self.state = ChannelState.LIVE\n        gap',
        'self.state = ChannelState.LIVE\n        gap',
        'tests/hub/test_channel_end.py',
    ),
    Mutant(
        'an ended channel keeps its late subscribers',
        'access/subscribing.py',
        'if joined.end is not None:',
        'if False:',
        'tests/hub/test_channel_end.py --timeout 30',
    ),
    Mutant(
        'an ended channel is asked about without reading its log',
        'hub/hub.py',
        'if local_channel.end is not None:\n                    await',
        'if False:\n                    await',
        'tests/hub/test_channel_end.py --timeout 30',
    ),
    Mutant(
        'an ended channel overtakes what is queued for code of the application',
        'local_subscription.py',
        'self.flush()\n        self.transport.finish(end)',
        'self.transport.finish(end)',
        'tests/simulation/test_end_of_channels.py',
    ),
    Mutant(
        'an ended channel hides its latest state behind an empty end',
        'hub/hub.py',
        'if newest and not visible and len(newest) == limit:',
        'if False:',
        'tests/hub/test_channel_end.py',
    ),
]
