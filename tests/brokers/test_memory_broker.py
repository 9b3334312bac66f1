"""The memory broker removes what has expired; the test controls its clock."""

from __future__ import annotations

from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.memory import MemoryBroker
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
