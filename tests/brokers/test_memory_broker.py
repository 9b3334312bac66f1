"""The memory broker removes what has expired; the test controls its clock."""

from __future__ import annotations

from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Publication


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def test_expired_idempotency_keys_of_a_channel_without_log_are_removed() -> None:
    """Idempotency keys of channels without a log do not accumulate."""
    clock = Clock()
    broker = MemoryBroker(clock=clock)
    settings = LogSettings(idempotency_ttl_s=10.0)
    item = Publication(data=b'1')
    for round_number in range(10):
        for n in range(100):
            key = f'{round_number} {n}'
            await broker.publish('live', item, settings, idempotency_key=key)
        clock.now_s += 11.0
    assert len(broker._keys) <= 200
    assert len(broker._key_expiry) <= 200


async def test_publications_after_a_pause_are_removed_by_their_age() -> None:
    """Publications take no memory after `ttl_s`, also if the log was empty before."""
    clock = Clock()
    broker = MemoryBroker(clock=clock)
    settings = LogSettings(size=1000, ttl_s=60.0)
    item = Publication(data=b'1')
    for _ in range(1000):
        await broker.publish('room', item, settings)
        await broker.publish('room', item, settings)
        clock.now_s += 61.0
        await broker.expire_presence(10)
        assert 0 == len(broker._logs['room'].items)
    assert len(broker._checks) <= 110
    clock.now_s += 31 * 86400.0
    for _ in range(2):
        await broker.expire_presence(10)
    assert {} == broker._logs


async def test_expired_revocations_are_removed() -> None:
    """Expired revocations do not accumulate, even if they are renewed."""
    clock = Clock()
    broker = MemoryBroker(clock=clock)
    for round_number in range(10):
        for n in range(100):
            await broker.revoke('room', f'{round_number} {n}', 10.0)
            await broker.revoke('room', 'always', 10.0)
        clock.now_s += 9.0
    assert await broker.is_revoked('room', 'always')
    assert len(broker._revoked) <= 300
    assert len(broker._revoked_expiry) <= 500


async def test_user_who_is_revoked_again_and_again_takes_no_more_memory() -> None:
    """A revocation that is renewed takes the memory of one, and ends at its time."""
    clock = Clock()
    broker = MemoryBroker(clock=clock)
    for _ in range(1000):
        await broker.revoke('room', 'ann', 86400.0)
        clock.now_s += 1.0
    assert len(broker._revoked_expiry) <= 110
    clock.now_s += 86390.0
    assert await broker.is_revoked('room', 'ann')
    clock.now_s += 10.0
    assert not await broker.is_revoked('room', 'ann')
    for _ in range(3):
        await broker.revoke('room', 'bob', 0.0)
    assert {} == broker._revoked


async def test_entry_that_is_added_again_and_again_takes_no_more_memory() -> None:
    """A client that subscribes and unsubscribes in a loop does not fill the memory."""
    clock = Clock()
    broker = MemoryBroker(clock=clock)
    entry = PresenceEntry('room', ClientInfo(user='ann', client='1'))
    for _ in range(10):
        for _ in range(100):
            await broker.remove_presence('room', '1')
            await broker.add_presence([entry], 60.0)
        clock.now_s += 50.0
        await broker.add_presence([entry], 60.0)
        clock.now_s += 11.0
        assert [] == await broker.expire_presence(1000)
        assert 1 == len(broker._presence_expiry)
    clock.now_s += 60.0
    [change] = await broker.expire_presence(1000)
    assert (entry.info, True) == (change.info, change.last)


async def test_entry_with_a_shorter_lifetime_expires_at_its_new_time() -> None:
    """An entry expires at the time of its last refresh, also if that is earlier."""
    clock = Clock()
    broker = MemoryBroker(clock=clock)
    entry = PresenceEntry('room', ClientInfo(user='ann', client='1'))
    await broker.add_presence([entry], 60.0)
    await broker.add_presence([entry], 10.0)
    clock.now_s += 11.0
    assert 1 == len(await broker.expire_presence(10))
