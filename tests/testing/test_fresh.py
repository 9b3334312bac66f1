"""`fresh_channels` and `channels_fixture`: one `Channels` object for many tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import pytest
from support.processes import python_path

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import ChannelsError
from falcon_channels import ClosedError
from falcon_channels import EventLoopError
from falcon_channels import OptionsError
from falcon_channels.brokers.base import Capabilities
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.endpoint.endpoint import Endpoint
from falcon_channels.portal import Portal
from falcon_channels.testing import channels_fixture
from falcon_channels.testing import fresh_channels
from falcon_channels.testing import run_with_fake_clock
from falcon_channels.testing import SimulatedClient


def make_channels(broker: Any = None) -> Channels:
    channels = Channels(broker)
    options = ChannelOptions(history_size=5, publishers='anybody')
    channels.add_route('rooms:{room}', AnyRoom(), options)
    return channels


class AnyRoom:
    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        """Allow everybody."""


async def publish(channels: Channels) -> int:
    return (await channels.publish('rooms:a', 1)).position.offset


async def publish_and_close(channels: Channels) -> int:
    try:
        return await publish(channels)
    finally:
        await channels.close()


async def leave_a_client(channels: Channels) -> int:
    client = SimulatedClient(channels, user='ann')
    await client.__aenter__()
    await client.subscribe('rooms:a')
    return await publish(channels)


async def use_in_a_block(channels: Channels) -> int:
    async with channels:
        return await publish(channels)


TESTS = [publish, publish_and_close, leave_a_client, use_in_a_block]


@pytest.mark.parametrize('first', TESTS)
@pytest.mark.parametrize('second', TESTS)
@pytest.mark.parametrize('run', [asyncio.run, run_with_fake_clock])
def test_each_test_begins_with_empty_channels(
    first: Callable[..., Any], second: Callable[..., Any], run: Callable[..., Any]
) -> None:
    """Each test begins with empty channels, also if the last test left them open."""
    channels = make_channels()
    for test in (first, second):
        with fresh_channels(channels) as fresh:
            assert [] == fresh.connections()
            assert 1 == run(test(fresh))


@pytest.mark.parametrize('first', TESTS)
@pytest.mark.parametrize('second', TESTS)
def test_open_event_loop_closes_the_channels(
    first: Callable[..., Any], second: Callable[..., Any]
) -> None:
    """If the event loop of a test is still open, the channels are closed in it."""
    channels = make_channels()
    for test in (first, second):
        with asyncio.Runner() as runner:
            with fresh_channels(channels) as fresh:
                assert 1 == runner.run(test(fresh))
            assert 'closed' == channels.status


def test_channels_closed_by_a_test_start_again_in_a_block() -> None:
    """Without the fixture, `async with channels` works in each test; `close` does not.

    After `close` alone, the next test would fail.
    """
    channels = make_channels()
    for _ in range(2):
        assert 1 == run_with_fake_clock(use_in_a_block(channels))
    with pytest.raises(ClosedError):
        run_with_fake_clock(publish(channels))


def test_shared_broker_without_its_event_loop_is_reported(tmp_path: Path) -> None:
    """If a test does not close a broker with links, the error says what to write."""
    channels = make_channels(f'sqlite:///{tmp_path}/a.db')
    with asyncio.Runner() as runner:
        with fresh_channels(channels):
            assert 1 == runner.run(publish(channels))
        assert 'closed' == channels.status
    with fresh_channels(channels):
        assert 2 == asyncio.run(use_in_a_block(channels))

    class SharedBroker(MemoryBroker):
        capabilities = Capabilities(immediate_reads=True, shared=True)

    channels = make_channels(SharedBroker())
    with pytest.raises(ChannelsError, match='write "async with channels:"'):
        with fresh_channels(channels):
            asyncio.run(publish(channels))


async def test_node_in_a_live_event_loop_is_not_abandoned() -> None:
    """Channels can be dropped without `close` only after their event loop has ended."""
    async with make_channels() as channels:
        with pytest.raises(EventLoopError):
            channels.node.abandon()


def test_broker_given_as_an_object_is_refused() -> None:
    """A broker object starts only once, and the error says what to do."""
    channels = make_channels(MemoryBroker())
    with fresh_channels(channels):
        asyncio.run(publish_and_close(channels))
    with pytest.raises(ClosedError, match='given as a URL'), fresh_channels(channels):
        pass


async def test_running_event_loop_is_refused() -> None:
    """In a running loop the channels cannot be closed, and the error says so."""
    channels = make_channels()
    with pytest.raises(ChannelsError, match='still runs'):
        with fresh_channels(channels):
            await publish(channels)
    await channels.close()


def test_timers_and_rates_of_an_earlier_loop_are_forgotten() -> None:
    """A test whose clock begins at 0 is not affected by rates of an earlier test."""
    channels = make_channels()
    endpoint = Endpoint(channels.node)

    class Due:
        def on_due(self, now_s: float) -> None:
            due.append(now_s)

    async def scenario(start_s: float) -> None:
        async with channels:
            await asyncio.sleep(start_s)
            endpoint.begin_connection()
            rates, timers = endpoint.user_rates, endpoint.timers
            assert rates is not None
            assert rates.take('ann', endpoint.now_s())
            timers.add(Due(), endpoint.now_s() + 1)
            await asyncio.sleep(3)
            endpoint.begin_connection()
            assert (rates, timers) == (endpoint.user_rates, endpoint.timers)

    due: list[float] = []
    run_with_fake_clock(scenario(start_s=100_000))
    run_with_fake_clock(scenario(start_s=0))
    assert [100_000, 0] == [when // 10 * 10 for when in due]


CONFTEST = """
from app import channels as app_channels
from falcon_channels.testing import channels_fixture

channels = channels_fixture(app_channels)
"""
APP = """
from falcon_channels import ChannelOptions
from falcon_channels import Channels

channels = Channels()
channels.add_route('rooms:{room}', None, ChannelOptions(history_size=5))
"""
TEST = """
from app import channels as app_channels
import pytest
from falcon_channels.testing import run_with_fake_clock

async def scenario(channels):
    assert 1 == (await channels.publish('rooms:a', 1)).position.offset

async def closing(channels):
    await scenario(channels)
    await channels.close()

@pytest.mark.parametrize('number', range(3))
@pytest.mark.parametrize('scenario', [scenario, closing])
def test_named(channels, number, scenario):
    assert channels is app_channels
    run_with_fake_clock(scenario(channels))

@pytest.mark.parametrize('number', range(3))
async def test_asynchronous(number):
    await scenario(app_channels)
"""


def test_fixture_gives_each_test_empty_channels(tmp_path: Path) -> None:
    """The fixture of the documentation works in synchronous and asynchronous tests."""
    for name, text in (('conftest', CONFTEST), ('app', APP), ('test_app', TEST)):
        (tmp_path / f'{name}.py').write_text(text)
    words = ['-q', '-p', 'no:cacheprovider', '-o', 'asyncio_mode=auto']
    words += ['-o', 'asyncio_default_fixture_loop_scope=function']
    done = subprocess.run(
        [sys.executable, '-W', 'error', '-m', 'pytest', *words],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': python_path(str(tmp_path))},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert '9 passed' in done.stdout, done.stdout + done.stderr
    assert 0 == done.returncode


@pytest.mark.parametrize('wrong', [Portal(Channels()), Channels, None])
@pytest.mark.parametrize(
    'use', [channels_fixture, lambda it: fresh_channels(it).__enter__()]
)
def test_another_object_than_channels_is_refused_at_once(use: Any, wrong: Any) -> None:
    """The error says what to write, when the fixture is made and not in each test."""
    with pytest.raises(OptionsError, match='write "with portal:" in a fixture'):
        use(wrong)
