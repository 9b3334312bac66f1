"""The wheel that asks all connections by one timer."""

from __future__ import annotations

import asyncio
import time

from falcon_channels.server.keepalive import KeepAliveWheel


class Asked:
    """A connection that counts when it is asked, and answers what it is told."""

    def __init__(self, *answers: float | None) -> None:
        self.wheel_slot = -1
        self.answers = list(answers)
        self.times: list[float] = []
        self.ends: Asked | None = None
        self.wheel: KeepAliveWheel | None = None

    def keep_alive(self) -> float | None:
        self.times.append(time.monotonic())
        if self.ends is not None and self.wheel is not None:
            self.wheel.discard(self.ends)
        return self.answers.pop(0)


async def turned(wheel: KeepAliveWheel) -> None:
    """Wait until the wheel is empty."""
    while wheel._population:
        await asyncio.sleep(0.005)


async def test_connections_are_asked_when_they_want() -> None:
    """Each is asked after its delay, never earlier by more than a slot, until None."""
    wheel = KeepAliveWheel(asyncio.get_running_loop(), 0.08, 0.2)
    soon, late = Asked(0.08, None), Asked(None)
    began = time.monotonic()
    wheel.add(soon, 0.08)
    wheel.add(late, 0.2)
    await turned(wheel)

    assert 2 == len(soon.times)
    assert 1 == len(late.times)
    assert soon.times[0] - began >= 0.07
    assert soon.times[1] - soon.times[0] >= 0.07
    assert late.times[0] - began >= 0.18


async def test_an_empty_wheel_has_no_timer() -> None:
    """The timer runs only while there is somebody to ask; discarding is idempotent."""
    wheel = KeepAliveWheel(asyncio.get_running_loop(), 1, 1)
    one = Asked()
    assert wheel._timer is None
    wheel.add(one, 1)
    assert wheel._timer is not None
    wheel.discard(one)
    wheel.discard(one)
    assert wheel._timer is None
    assert -1 == one.wheel_slot


async def test_one_may_end_another_in_the_same_turn() -> None:
    """A connection that another one ends while both are due is not asked any more."""
    wheel = KeepAliveWheel(asyncio.get_running_loop(), 0.05, 0.05)
    one, two = Asked(None), Asked(None)
    one.ends, two.ends = two, one
    for connection in (one, two):
        connection.wheel = wheel
        wheel.add(connection, 0.05)
    await turned(wheel)

    assert 1 == len(one.times) + len(two.times)
