"""The contract of brokers with presence, as tests."""

from __future__ import annotations

import asyncio

import pytest

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import PresenceChange
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.publication import ClientInfo
from falcon_channels.testing.contract import BrokerContract
from falcon_channels.testing.contract import NASTY_NAMES
from falcon_channels.testing.recorder import eventually


def info(client: str, user: str = 'ann') -> ClientInfo:
    """Return who a connection is."""
    return ClientInfo(user=user, client=client)


def entry(client: str, user: str = 'ann', channel: str = 'room') -> PresenceEntry:
    """Return an entry of the room."""
    return PresenceEntry(channel, info(client, user))


async def all_expired(broker: Broker, count: int) -> list[PresenceChange]:
    """Return what expires, once it is so many."""
    gone: list[PresenceChange] = []

    async def done() -> bool:
        gone.extend(await broker.expire_presence(100))
        return len(gone) >= count

    await eventually(done, f'{count} entries expire')
    return gone


@pytest.mark.asyncio
class PresenceContract(BrokerContract):
    """What every broker with `Capabilities.presence` promises."""

    async def test_presence_tells_first_and_last_of_a_user(self) -> None:
        """The first entry of a user in a channel and the last one are told."""
        broker = await self.open_broker()
        async with self.opened(broker):
            entries = [entry('1'), entry('2'), entry('3', 'bob'), entry('4', '')]
            assert [True, False, True, True] == await broker.add_presence(entries, 60)
            assert [False, False] == await broker.add_presence(entries[:2], 60)
            assert [True] == await broker.add_presence([entry('1', 'ann', 'b')], 60)
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
            assert [True] == await broker.add_presence([entry('5')], 60)

    async def test_presence_keeps_the_whole_info(self) -> None:
        """User, connection and their public facts come back as they were given."""
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

    async def test_many_entries_in_one_call(self) -> None:
        """One call takes entries of many channels, and none at all."""
        broker = await self.open_broker()
        async with self.opened(broker):
            assert [] == await broker.add_presence([], 60)
            entries = [entry(str(n), str(n % 7), f'room {n % 3}') for n in range(300)]
            told = await broker.add_presence(entries, 60)
            assert 21 == sum(told)
            assert [True] * 3 == told[:3]
            for n in range(3):
                assert 100 == len(await broker.presence(f'room {n}'))

    async def test_expired_entries_are_told_once(self) -> None:
        """Each expired entry is given to one caller, and the last of a user marked."""
        broker = await self.open_broker()
        async with self.opened(broker):
            await broker.add_presence([entry('1'), entry('2'), entry('3', 'bob')], 0.3)
            await broker.add_presence([entry('4'), entry('3', 'bob')], 60)

            async def hidden() -> bool:
                return set(await broker.presence('room')) == {'3', '4'}

            await eventually(hidden, 'expired entries are not shown')
            gone = await all_expired(broker, 2)
            assert {('1', False), ('2', False)} == {
                (c.info.client, c.last) for c in gone
            }
            assert {'room'} == {change.channel for change in gone}
            assert [] == await broker.expire_presence(100)
            change = await broker.remove_presence('room', '4')
            assert PresenceChange('room', info('4'), True) == change

    async def test_a_user_who_is_back_before_the_expiry_was_never_away(self) -> None:
        """An entry counts for first and last until its expiry was told."""
        broker = await self.open_broker()
        async with self.opened(broker):
            await broker.add_presence([entry('1')], 0.2)

            async def hidden() -> bool:
                return not await broker.presence('room')

            await eventually(hidden, 'the entry expires')
            assert [False] == await broker.add_presence([entry('2')], 60)
            gone = await all_expired(broker, 1)
            assert [PresenceChange('room', info('1'), False)] == gone

    async def test_a_refresh_keeps_an_entry(self) -> None:
        """An entry that is refreshed in time does not expire with its first time."""
        broker = await self.open_broker()
        async with self.opened(broker):
            await broker.add_presence([entry('kept'), entry('marker', 'bob')], 0.3)
            await broker.add_presence([entry('kept')], 60)
            gone = await all_expired(broker, 1)
            assert ['marker'] == [change.info.client for change in gone]
            assert {'kept'} == set(await broker.presence('room'))

    async def test_racing_callers_share_the_expired(self) -> None:
        """Callers at the same time get each expired entry once, at most so many."""
        broker = await self.open_broker()
        async with self.opened(broker):
            await broker.add_presence([entry(str(n), str(n)) for n in range(20)], 0.1)

            async def hidden() -> bool:
                return not await broker.presence('room')

            await eventually(hidden, 'all expire')
            parts = await asyncio.gather(*(broker.expire_presence(7) for _ in range(4)))
            assert all(len(part) <= 7 for part in parts)
            told = [change.info.client for part in parts for change in part]
            assert sorted(map(str, range(20))) == sorted(told)

    async def test_presence_of_nasty_names(self) -> None:
        """Promise 14: presence and revocations keep names apart, too."""
        broker = await self.open_broker()
        async with self.opened(broker):
            for name in NASTY_NAMES:
                told = await broker.add_presence([entry(name, name, name)], 60)
                assert [True] == told, name
                await broker.revoke(name, name, 60)
            for name in NASTY_NAMES:
                assert {name: info(name, name)} == dict(await broker.presence(name))
                assert await broker.is_revoked(name, name)
                await broker.revoke(name, name, 0)
                assert not await broker.is_revoked(name, name)
                change = await broker.remove_presence(name, name)
                assert PresenceChange(name, info(name, name), True) == change

    # --- revocations -----------------------------------------------------------------

    async def test_a_revocation_holds_until_taken_back(self) -> None:
        """A revocation is of one user in one channel, and 0 seconds forget it."""
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

    async def test_a_revocation_ends_with_its_time(self) -> None:
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
