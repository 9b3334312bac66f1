"""Calls that wait for an outcome of a thread or a server."""

from __future__ import annotations

import asyncio

import pytest
from support.fake_clock import on_fake_clock

from falcon_channels.brokers.pending_calls import PendingCall
from falcon_channels.brokers.pending_calls import PendingCalls
from falcon_channels.errors import BrokerUnavailableError

MAX_CALLS, MAX_BYTES = 20_000, 67_108_864


@on_fake_clock
async def test_ended_call_gives_its_caller_the_outcome() -> None:
    """A caller gets the result or the error of its call, in any order of the calls."""
    calls: PendingCalls[str] = PendingCalls('the store', 5.0)
    one, two, three = (calls.add(name, 10) for name in ('one', 'two', 'three'))
    calls.resolve(two, 2)
    calls.reject(three, LookupError('three'))
    calls.resolve(one, 1)
    assert (1, 2) == (await one.future, await two.future)
    with pytest.raises(LookupError):
        await three.future
    assert 0 == len(calls)


@on_fake_clock
async def test_call_without_outcome_fails_at_its_deadline() -> None:
    """Each call fails at its own deadline; later calls go on waiting."""
    loop = asyncio.get_running_loop()
    calls: PendingCalls[str] = PendingCalls('the store', 5.0)
    early = calls.add('early', 10)
    await asyncio.sleep(2.0)
    late = calls.add('late', 10)
    with pytest.raises(
        BrokerUnavailableError, match=r'the store did not answer within 5\.0 s'
    ):
        await early.future
    assert pytest.approx(5.0, abs=0.01) == loop.time()
    assert not late.future.done()
    with pytest.raises(BrokerUnavailableError):
        await late.future
    assert pytest.approx(7.0, abs=0.01) == loop.time()


@on_fake_clock
async def test_overdue_call_counts_until_it_is_ended() -> None:
    """A call that failed at its deadline takes memory until the thread drops it.

    Otherwise a thread that hangs for hours would collect calls without a limit.
    """
    calls: PendingCalls[str] = PendingCalls('the store', 5.0)
    call = calls.add('slow', MAX_BYTES)
    with pytest.raises(BrokerUnavailableError):
        await call.future
    with pytest.raises(BrokerUnavailableError, match=f'1 calls with {MAX_BYTES} bytes'):
        calls.add('next', 1)
    calls.discard(call)
    calls.discard(call)
    assert 0 == len(calls)
    calls.add('next', MAX_BYTES)
    calls.close()


@on_fake_clock
async def test_too_many_calls_are_refused_with_both_numbers() -> None:
    """The number of calls is limited; the message says the number and the limit."""
    calls: PendingCalls[str] = PendingCalls('the store', 5.0)
    for _ in range(MAX_CALLS):
        calls.add('call', 0)
    with pytest.raises(BrokerUnavailableError, match=f'limits are {MAX_CALLS} calls'):
        calls.add('call', 0)
    assert MAX_CALLS == len(calls)
    calls.close()


@on_fake_clock
async def test_cancelled_call_is_ended_without_harm() -> None:
    """A cancelled caller changes nothing for the others, whatever ends its call."""
    calls: PendingCalls[str] = PendingCalls('the store', 5.0)
    cancelled: list[PendingCall[str]] = [calls.add('gone', 10) for _ in range(4)]
    other = calls.add('other', 10)
    for call in cancelled:
        call.future.cancel()
    calls.resolve(cancelled[0], 1)
    calls.reject(cancelled[1], LookupError())
    calls.discard(cancelled[2])
    calls.resolve(other, 2)
    assert 2 == await other.future
    assert 1 == len(calls)
    await asyncio.sleep(10.0)
    calls.discard(cancelled[3])
    assert 0 == len(calls)


@on_fake_clock
async def test_close_fails_pending_calls_and_refuses_new_ones() -> None:
    """Promise 16: after `close` no caller waits, and outcomes come too late."""
    calls: PendingCalls[str] = PendingCalls('the store', 5.0)
    call = calls.add('call', 10)
    calls.close()
    calls.close()
    with pytest.raises(BrokerUnavailableError, match='the store was closed before'):
        await call.future
    calls.resolve(call, 1)
    with pytest.raises(BrokerUnavailableError, match='the store is closed'):
        calls.add('late', 10)
    assert 0 == len(calls)


@on_fake_clock
async def test_owner_may_fail_all_calls_when_one_is_overdue() -> None:
    """With `on_overdue`, the owner decides; new calls have deadlines again."""
    overdue = 0

    def on_overdue() -> None:
        nonlocal overdue
        overdue += 1
        calls.fail_all('the connection is stuck')

    calls: PendingCalls[str] = PendingCalls('the server', 5.0, on_overdue)
    one = calls.add('one', 10)
    await asyncio.sleep(3.0)
    two = calls.add('two', 10)
    await asyncio.sleep(3.0)
    for call in (one, two):
        with pytest.raises(BrokerUnavailableError, match='the connection is stuck'):
            await call.future
    three = calls.add('three', 10)
    with pytest.raises(BrokerUnavailableError):
        await three.future
    assert 2 == overdue
