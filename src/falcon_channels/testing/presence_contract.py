"""The contract of brokers with presence and revocations, as a test suite."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
import time

import pytest

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import PresenceChange
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.publication import ClientInfo
from falcon_channels.testing.contract import BrokerContract
from falcon_channels.testing.contract import NASTY_NAMES
from falcon_channels.testing.contract import numbers
from falcon_channels.testing.contract import publication
from falcon_channels.testing.recorder import eventually

__all__ = ['PresenceContract']


def info(client: str, user: str = 'ann') -> ClientInfo:
    """Return the public facts about a connection."""
    return ClientInfo(user=user, client=client)


async def add(
    broker: Broker, entries: Sequence[PresenceEntry], ttl_s: float
) -> list[bool]:
    """Add entries; return for each whether it is the first of its user."""
    return [added.first for added in await broker.add_presence(entries, ttl_s)]


def entry(client: str, user: str = 'ann', channel: str = 'room') -> PresenceEntry:
    """Return a presence entry."""
    return PresenceEntry(channel, info(client, user))


async def all_expired(broker: Broker, count: int) -> list[PresenceChange]:
    """Return the expired entries, as soon as there are `count` of them."""
    changes: list[PresenceChange] = []

    async def done() -> bool:
        changes.extend(await broker.expire_presence(100))
        return len(changes) >= count

    await eventually(done, f'{count} entries expire')
    return changes


@pytest.mark.asyncio
class PresenceContract(BrokerContract):
    """The promises of every broker with `Capabilities.presence`."""

    async def test_first_and_last_entry_of_a_user_are_reported(self) -> None:
        """The first and the last entry of a user in a channel are reported."""
        broker = await self.open_broker()
        async with self.opened(broker):
            entries = [entry('1'), entry('2'), entry('3', 'bob'), entry('4', '')]
            assert [True, False, True, True] == await add(broker, entries, 60)
            assert [False, False] == await add(broker, entries[:2], 60)
            assert [True] == await add(broker, [entry('1', 'ann', 'b')], 60)
            assert {e.info.client: e.info for e in entries} == dict(
                await broker.presence('room')
            )
            change = await broker.remove_presence('room', '1')
            assert PresenceChange('room', info('1'), False) == change
            assert None is await broker.remove_presence('room', '1')
            assert None is await broker.remove_presence('nowhere', '2')
            change = await broker.remove_presence('room', '2')
            assert PresenceChange('room', info('2'), True) == change
            assert {'3', '4'} == set(await broker.presence('room'))
            assert {'1'} == set(await broker.presence('b'))
            for channel, user, there in (
                ('room', 'ann', False),
                ('b', 'ann', True),
                ('room', 'bob', True),
                ('room', '', True),
                ('b', '', False),
                ('nowhere', 'ann', False),
            ):
                assert there is await broker.has_user(channel, user), (channel, user)
            assert {} == dict(await broker.presence('nowhere'))
            assert [True] == await add(broker, [entry('5')], 60)

    async def test_stats_count_entries_and_users_that_have_not_expired(self) -> None:
        """The stats are those of the entries that `presence` returns."""
        broker = await self.open_broker()
        async with self.opened(broker):
            assert (0, 0) == await broker.presence_stats('room')
            await add(broker, [entry('1'), entry('2'), entry('3', 'bob')], 60)
            assert (3, 2) == await broker.presence_stats('room')
            await broker.remove_presence('room', '1')
            assert (2, 2) == await broker.presence_stats('room')
            await add(broker, [entry('4', 'eve')], 0.3)

            async def one_expired() -> bool:
                return await broker.presence_stats('room') == (2, 2)

            await eventually(one_expired, 'the entry of eve expires')
            await add(broker, [entry('4', 'eve')], 60)
            assert (3, 3) == await broker.presence_stats('room')

    async def test_new_entries_are_reported(self) -> None:
        """An entry is new if it did not exist, also after it was removed or expired."""
        broker = await self.open_broker()
        async with self.opened(broker):

            async def is_new(client: str, ttl_s: float = 60) -> bool:
                (added,) = await broker.add_presence([entry(client)], ttl_s)
                return added.new

            assert await is_new('1')
            assert not await is_new('1')
            assert await is_new('2', 0.1)
            await broker.remove_presence('room', '1')
            assert await is_new('1')

            async def only_one() -> bool:
                return set(await broker.presence('room')) == {'1'}

            await eventually(only_one, 'the entry expires')
            assert not await is_new('2', 0.1)
            await all_expired(broker, 1)
            assert await is_new('2')

    async def test_info_of_an_entry_is_returned_unchanged(self) -> None:
        """User, connection and their public facts are returned as they were added."""
        broker = await self.open_broker()
        async with self.opened(broker):
            full = ClientInfo(
                user='o\'€"*', client='c{}:*', conn_info=b'{"a":1}', chan_info=b'null'
            )
            await broker.add_presence([PresenceEntry('room', full)], 60)
            assert {full.client: full} == dict(await broker.presence('room'))
            newer = ClientInfo(user=full.user, client=full.client, conn_info=b'2')
            await broker.add_presence([PresenceEntry('room', newer)], 60)
            assert {full.client: newer} == dict(await broker.presence('room'))
            change = await broker.remove_presence('room', full.client)
            assert PresenceChange('room', newer, True) == change

    async def test_entry_with_another_user_counts_for_this_user_only(self) -> None:
        """If the user of a connection changes, the earlier user has no entry."""
        broker = await self.open_broker()
        async with self.opened(broker):
            assert [True] == await add(broker, [entry('1', 'ann')], 60)
            assert [True] == await add(broker, [entry('1', 'bob')], 60)
            assert not await broker.has_user('room', 'ann')
            assert (1, 1) == await broker.presence_stats('room')
            change = await broker.remove_presence('room', '1')
            assert PresenceChange('room', info('1', 'bob'), True) == change
            assert not await broker.has_user('room', 'bob')

    async def test_one_call_adds_entries_of_many_channels(self) -> None:
        """One call accepts entries of many channels, and an empty list."""
        broker = await self.open_broker()
        async with self.opened(broker):
            assert [] == await add(broker, [], 60)
            entries = [entry(str(n), str(n % 7), f'room {n % 3}') for n in range(300)]
            firsts = await add(broker, entries, 60)
            assert 21 == sum(firsts)
            assert [True] * 3 == firsts[:3]
            for n in range(3):
                assert 100 == len(await broker.presence(f'room {n}'))

    async def test_expired_entry_is_returned_once(self) -> None:
        """Each expired entry is returned once; it says whether it was the last."""
        broker = await self.open_broker()
        async with self.opened(broker):
            await broker.add_presence([entry('1'), entry('2'), entry('3', 'bob')], 0.3)
            await broker.add_presence([entry('4'), entry('3', 'bob')], 60)

            async def all_hidden() -> bool:
                return set(await broker.presence('room')) == {'3', '4'}

            await eventually(all_hidden, 'expired entries are not shown')
            changes = await all_expired(broker, 2)
            assert {('1', False), ('2', False)} == {
                (c.info.client, c.last) for c in changes
            }
            assert {'room'} == {change.channel for change in changes}
            assert [] == await broker.expire_presence(100)
            change = await broker.remove_presence('room', '4')
            assert PresenceChange('room', info('4'), True) == change

    async def test_expired_entry_counts_as_present_until_it_is_returned(
        self,
    ) -> None:
        """An expired entry counts until `expire_presence` has returned it."""
        broker = await self.open_broker()
        async with self.opened(broker):
            await broker.add_presence([entry('1')], 0.2)

            async def all_hidden() -> bool:
                return not await broker.presence('room')

            await eventually(all_hidden, 'the entry expires')
            assert [False] == await add(broker, [entry('2')], 60)
            changes = await all_expired(broker, 1)
            assert [PresenceChange('room', info('1'), False)] == changes

    async def test_refreshed_entry_does_not_expire_at_its_first_time(self) -> None:
        """An entry that is refreshed in time expires later."""
        broker = await self.open_broker()
        async with self.opened(broker):
            await broker.add_presence([entry('kept'), entry('marker', 'bob')], 0.3)
            await broker.add_presence([entry('kept')], 60)
            changes = await all_expired(broker, 1)
            assert ['marker'] == [change.info.client for change in changes]
            assert {'kept'} == set(await broker.presence('room'))

    async def test_concurrent_callers_get_each_expired_entry_once(self) -> None:
        """Concurrent callers get each expired entry once, and at most `limit`."""
        broker = await self.open_broker()
        async with self.opened(broker):
            await broker.add_presence([entry(str(n), str(n)) for n in range(20)], 0.1)

            async def all_hidden() -> bool:
                return not await broker.presence('room')

            await eventually(all_hidden, 'all expire')
            parts = await asyncio.gather(*(broker.expire_presence(7) for _ in range(4)))
            assert all(len(part) <= 7 for part in parts)
            clients = [change.info.client for part in parts for change in part]
            assert sorted(map(str, range(20))) == sorted(clients)

    async def test_presence_of_names_with_special_characters_stays_separate(
        self,
    ) -> None:
        """Promise 14: presence and revocations keep all names separate."""
        broker = await self.open_broker()
        async with self.opened(broker):
            for name in NASTY_NAMES:
                firsts = await add(broker, [entry(name, name, name)], 60)
                assert [True] == firsts, name
                await broker.revoke(name, name, 60)
            for name in NASTY_NAMES:
                assert {name: info(name, name)} == dict(await broker.presence(name))
                assert await broker.is_revoked(name, name)
                await broker.revoke(name, name, 0)
                assert not await broker.is_revoked(name, name)
                change = await broker.remove_presence(name, name)
                assert PresenceChange(name, info(name, name), True) == change

    # --- revocations -----------------------------------------------------------------

    async def test_revocation_holds_until_it_is_removed(self) -> None:
        """A revocation is for one user in one channel; 0 seconds remove it."""
        broker = await self.open_broker()
        async with self.opened(broker):
            assert not await broker.is_revoked('room', 'ann')
            await broker.revoke('room', 'ann', 60)
            assert await broker.is_revoked('room', 'ann')
            assert not await broker.is_revoked('room', 'bob')
            assert not await broker.is_revoked('other', 'ann')
            await broker.revoke('a', 'b:c', 60)
            assert not await broker.is_revoked('a:b', 'c')
            await broker.revoke('room', 'ann', 0)
            assert not await broker.is_revoked('room', 'ann')
            await broker.revoke('room', 'bob', 0)

    async def test_revocation_ends_after_its_time(self) -> None:
        """Promise 15: a revocation holds for its time, and may be renewed."""
        broker = await self.open_broker()
        async with self.opened(broker):
            await broker.revoke('room', 'ann', 0.2)
            await broker.revoke('room', 'bob', 0.2)
            await broker.revoke('room', 'bob', 60)

            async def over() -> bool:
                return not await broker.is_revoked('room', 'ann')

            await eventually(over, 'the revocation ends')
            assert await broker.is_revoked('room', 'bob')

    # --- clocks ----------------------------------------------------------------------

    @pytest.mark.parametrize('jump_s', [86400.0, -86400.0], ids=['forward', 'back'])
    async def test_jump_of_the_wall_clock_changes_no_expiry(
        self, monkeypatch: pytest.MonkeyPatch, jump_s: float
    ) -> None:
        """Promise 15: after a jump of this process's wall clock, times stay as set."""
        settings = LogSettings(size=10, ttl_s=3600.0)
        wall_clock = time.time
        broker = await self.open_broker()
        async with self.opened(broker):
            await broker.publish(
                'news', publication(1), settings, idempotency_key='known'
            )
            await broker.revoke('room', 'ann', 600)
            await broker.revoke('room', 'bob', 0.3)
            await broker.add_presence([entry('live')], 600)
            await broker.add_presence([entry('dead', 'bob')], 0.3)
            monkeypatch.setattr(time, 'time', lambda: wall_clock() + jump_s)
            # NOTE: a transaction at the new time. A broker that stores the largest time
            #   of all transactions stores this one.
            await broker.publish('news', publication(2), settings)
            changes = await all_expired(broker, 1)
            assert ['dead'] == [change.info.client for change in changes]
            assert {'live'} == set(await broker.presence('room'))

            async def over() -> bool:
                return not await broker.is_revoked('room', 'bob')

            await eventually(over, 'the revocation ends')
            assert await broker.is_revoked('room', 'ann')
            page = await broker.history('news', settings)
            assert [1, 2] == numbers(page)
            again = await broker.publish(
                'news', publication(1), settings, idempotency_key='known'
            )
            assert again.duplicate
