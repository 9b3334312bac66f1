"""Calls from synchronous code into the hub's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
import subprocess
import sys
import threading

import pytest

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import ClosedError
from falcon_channels import UnknownChannelError
from falcon_channels.portal import Portal


@pytest.fixture
def portal() -> Iterator[Portal]:
    channels = Channels()
    channels.add_route(
        'rooms:{room}', None, ChannelOptions(history_size=2000, presence=True)
    )
    portal = Portal(channels, timeout_s=30.0)
    yield portal
    portal.close()


def test_calls_do_what_they_do_with_await(portal: Portal) -> None:
    """Publishing, reading and revoking work without await."""
    first = portal.publish('rooms:a', {'n': 1}, idempotency_key='k')
    again = portal.publish('rooms:a', {'n': 2}, idempotency_key='k')
    assert (first.position, False, True) == (
        again.position,
        first.duplicate,
        again.duplicate,
    )
    results = portal.broadcast(['rooms:a', 'rooms:b'], 'x')
    assert [2, 1] == [result.position.offset for result in results]
    page = portal.history('rooms:a', limit=1, reverse=True)
    assert ['x'] == [item.value() for item in page.publications]
    assert {} == portal.presence('rooms:a')
    assert (0, 0) == portal.presence_stats('rooms:a')
    portal.revoke_user('eve', 'rooms:a')
    portal.restore_user('eve', 'rooms:a')
    portal.unsubscribe_user('eve', 'rooms:a')
    portal.disconnect_user('eve')
    portal.call(portal.channels.refresh_user, 'eve', expired=True)


def test_errors_reach_the_caller(portal: Portal) -> None:
    """What a method raises is raised where it was called."""
    with pytest.raises(UnknownChannelError):
        portal.publish('nowhere', 1)
    with pytest.raises(TypeError):
        portal.call(portal.channels.publish)


def test_threads_call_at_once(portal: Portal) -> None:
    """Publications of many threads are all stored, each with an offset of its own."""
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda n: portal.publish('rooms:a', n), range(1000)))
    offsets = sorted(result.position.offset for result in results)
    assert list(range(1, 1001)) == offsets


def test_all_calls_run_in_one_thread(portal: Portal) -> None:
    """The hub has one thread, which is none of the callers'."""

    async def where() -> int:
        return threading.get_ident()

    with ThreadPoolExecutor(4) as pool:
        threads = set(pool.map(lambda _: portal.call(where), range(20)))
    assert 1 == len(threads)
    assert threading.get_ident() not in threads


def test_calls_have_a_deadline() -> None:
    """A call that takes too long is cancelled and raises TimeoutError."""
    portal = Portal(Channels(), timeout_s=0.05)
    cancelled = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        portal.call(forever)
    assert cancelled.wait(30)
    portal.close()


def test_a_call_of_the_hubs_own_thread_is_refused(portal: Portal) -> None:
    """Code in the hub's thread is told to await, rather than blocked for ever."""

    async def calls_back() -> None:
        portal.publish('rooms:a', 1)

    with pytest.raises(RuntimeError, match='await'):
        portal.call(calls_back)


def test_closing_ends_calls_and_refuses_more(portal: Portal) -> None:
    """Whoever waits while the portal closes gets an answer, and so does who comes."""
    began = threading.Event()

    async def forever() -> None:
        began.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(portal.call, forever)
        assert began.wait(30)
        portal.close()
        with pytest.raises(ClosedError):
            waiting.result(30)
    portal.close()
    with pytest.raises(ClosedError):
        portal.publish('rooms:a', 1)


def test_an_unused_portal_has_no_thread(portal: Portal) -> None:
    """Nothing is started before the first call, and closing then does nothing."""
    before = threading.active_count()
    other = Portal(Channels())
    assert before == threading.active_count()
    other.close()
    with pytest.raises(ClosedError):
        other.publish('rooms:a', 1)


def run(code: str) -> str:
    """Run code in a process of its own; return what it prints."""
    start = 'from falcon_channels import *\nfrom falcon_channels.portal import Portal\n'
    done = subprocess.run(
        [sys.executable, '-c', code.replace('START', start)],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert '' == done.stderr
    return done.stdout.strip()


def test_use_before_the_fork_is_told() -> None:
    """A child of a process that used the portal gets an error, and does not hang."""
    code = """START
import os
channels = Channels()
channels.add_route('rooms:{room}', None)
portal = Portal(channels)
portal.publish('rooms:a', 1)
if not os.fork():
    try:
        portal.publish('rooms:a', 1)
    except RuntimeError as ex:
        print(ex, flush=True)
    os._exit(0)
os.wait()
"""
    assert 'before the server forked' in run(code)


def test_greenlets_call_at_once() -> None:
    """Under gevent, greenlets wait for the hub without holding each other up."""
    code = """
from gevent import monkey
monkey.patch_all()
import asyncio
import gevent
import threading
START
channels = Channels()
channels.add_route('rooms:{room}', None, ChannelOptions(history_size=1000))
portal = Portal(channels)
here = threading.get_ident()
ticks = []
def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.001)
ticker = gevent.spawn(tick)
calls = [gevent.spawn(portal.publish, 'rooms:a', n) for n in range(300)]
gevent.joinall(calls)
async def where():
    return monkey.get_original('_thread', 'get_ident')()
there = portal.call(where)
print(sorted(call.value.position.offset for call in calls) == list(range(1, 301)))
print(there != monkey.get_original('_thread', 'get_ident')())
before = len(ticks)
portal.call(asyncio.sleep, 0.2)
print(len(ticks) - before > 10)
async def forever():
    await asyncio.Event().wait()
killed = gevent.spawn(portal.call, forever)
gevent.sleep(0)
killed.kill()
print(portal.position('rooms:a').offset)
ticker.kill()
"""
    assert ['True', 'True', 'True', '300'] == run(code).split()


def test_sqlite_works_in_the_thread_under_gevent(tmp_path: object) -> None:
    """A broker with threads of its own works where threads have become greenlets."""
    code = f"""
from gevent import monkey
monkey.patch_all()
START
channels = Channels('sqlite:///{tmp_path}/channels.db')
channels.add_route('rooms:{{room}}', None, ChannelOptions(history_size=1000))
portal = Portal(channels)
for n in range(20):
    portal.publish('rooms:a', n)
print([item.value() for item in portal.history('rooms:a').publications])
"""
    assert str(list(range(20))) == run(code)


@pytest.mark.parametrize(
    ('prepare', 'said'),
    [
        ('import eventlet; eventlet.monkey_patch()', 'not work under eventlet'),
        ('import gevent', 'patch_all'),
    ],
)
def test_what_cannot_work_is_told(prepare: str, said: str) -> None:
    """Under eventlet, and in greenlets where nothing is patched, there is an error."""
    code = f"""
import warnings
warnings.simplefilter('ignore')
{prepare}
START
portal = Portal(Channels())
def use():
    try:
        portal.publish('rooms:a', 1)
    except RuntimeError as ex:
        print(ex)
"""
    code += 'gevent.spawn(use).join()' if 'gevent' in prepare else 'use()'
    assert said in run(code)
