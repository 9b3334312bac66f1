"""`Portal`: calls from synchronous code into an event loop in another thread."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
import inspect
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import falcon
from falcon import testing
import pytest
from support.processes import wait_until
from websockets.exceptions import ConnectionClosed

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import ClosedError
from falcon_channels import Connection
from falcon_channels import NodeOptions
from falcon_channels import UnknownChannelError
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.portal import Portal
from falcon_channels.portal.events import _QueueTransport
from falcon_channels.portal.loop_thread import LoopThread
from falcon_channels.wsgi import App
from falcon_channels.wsgi.testing import simulate_ws


def make_channels() -> Channels:
    channels = Channels()
    channels.add_route(
        'rooms:{room}', None, ChannelOptions(history_size=2000, presence=True)
    )
    return channels


@pytest.fixture
def portal() -> Iterator[Portal]:
    portal = Portal(make_channels(), timeout_s=30.0)
    yield portal
    portal.close()


def test_portal_methods_return_what_the_async_methods_return(portal: Portal) -> None:
    """Publishing, reading and commands work without await."""
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
    thread = threading.current_thread()
    snapshot = portal.snapshot('rooms:a', threading.current_thread)
    assert (thread, page.position) == snapshot
    assert {} == portal.presence('rooms:a')
    assert (0, 0) == portal.presence_stats('rooms:a')
    portal.revoke_user('eve', 'rooms:a')
    portal.restore_user('eve', 'rooms:a')
    portal.unsubscribe_user('eve', 'rooms:a')
    portal.disconnect_user('eve')
    portal.subscribe_user('eve', 'rooms:a')
    portal.refresh_user('eve', expired=True)
    assert 1 == portal.record_user('eve', 60)
    (answer,) = portal.explain('rooms:a', 2, user='eve')
    assert 'unknown' == answer.verdict
    portal.remove_history('rooms:a')
    assert [] == portal.history('rooms:a').publications


def test_portal_has_each_coroutine_of_channels() -> None:
    """A portal has each coroutine of `Channels`, with the same parameters in order.

    The life of `Channels` is that of the event loop, and `start` is called by itself.
    """
    life = {'start', 'drain', 'process_startup', 'process_shutdown'}
    coroutines = {
        name
        for name, function in vars(Channels).items()
        if not name.startswith('_') and inspect.iscoroutinefunction(function)
    }
    assert {'publish', 'explain'} < coroutines
    for name in coroutines - life:
        ours = inspect.signature(getattr(Portal, name)).parameters.values()
        theirs = inspect.signature(getattr(Channels, name)).parameters
        named = [p.name for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert list(theirs)[: len(named)] == named, name


def test_error_of_a_method_is_raised_in_the_calling_thread(portal: Portal) -> None:
    """An exception in the event loop is raised by the call of the portal."""
    with pytest.raises(UnknownChannelError):
        portal.publish('nowhere', 1)
    with pytest.raises(TypeError):
        portal.call(portal.channels.publish)


def test_publications_of_many_threads_have_distinct_offsets(portal: Portal) -> None:
    """All publications of concurrent threads are stored, each with its own offset."""
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda n: portal.publish('rooms:a', n), range(1000)))
    offsets = sorted(result.position.offset for result in results)
    assert list(range(1, 1001)) == offsets


def test_calls_of_all_threads_run_in_one_background_thread(portal: Portal) -> None:
    """The event loop has one thread, which is none of the calling threads."""

    async def where() -> int:
        return threading.get_ident()

    with ThreadPoolExecutor(4) as pool:
        threads = set(pool.map(lambda _: portal.call(where), range(20)))
    assert 1 == len(threads)
    assert threading.get_ident() not in threads


def test_call_beyond_its_timeout_is_cancelled_and_raises() -> None:
    """A call that takes longer than `timeout_s` is cancelled."""
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


def test_call_in_the_thread_of_the_event_loop_raises(portal: Portal) -> None:
    """Code in the event loop is told to await. It would otherwise block for ever."""

    async def calls_back() -> None:
        portal.publish('rooms:a', 1)

    with pytest.raises(RuntimeError, match='await'):
        portal.call(calls_back)


def test_close_ends_waiting_calls_and_refuses_later_ones(portal: Portal) -> None:
    """Calls that wait when the portal closes raise ClosedError, like later calls."""
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


@pytest.mark.parametrize('moment', ['before its tasks end', 'after its tasks ended'])
def test_call_that_comes_while_the_loop_ends_raises(moment: str) -> None:
    """A call without a timeout that has passed the check does not wait for ever."""
    thread = LoopThread()
    loop = thread.start()
    posted = threading.Event()
    post = loop.call_soon_threadsafe

    def post_and_tell(*args: Any, **options: Any) -> Any:
        try:
            return post(*args, **options)
        finally:
            posted.set()

    async def forever() -> None:
        await asyncio.Event().wait()

    def call() -> None:
        thread.call(forever, timeout_s=None)

    def begin_call() -> None:
        waiting.append(pool.submit(call))
        assert posted.wait(30)

    async def begin_call_at_the_end() -> None:
        try:
            began.set()
            await forever()
        finally:
            begin_call()

    waiting: list[Future[None]] = []
    began = threading.Event()
    close = loop.close
    with ThreadPoolExecutor(1) as pool, pytest.MonkeyPatch.context() as patch:
        if moment == 'before its tasks end':
            post(loop.create_task, begin_call_at_the_end())
            assert began.wait(30)
        else:
            patch.setattr(loop, 'close', lambda: [begin_call(), close()])
        patch.setattr(thread, 'start', lambda: loop)
        patch.setattr(loop, 'call_soon_threadsafe', post_and_tell)
        post(loop.stop)
        wait_until(lambda: waiting, 'the call has come')
        with pytest.raises(ClosedError):
            waiting[0].result(30)


@pytest.mark.parametrize('kind', ['WebSocket', 'event stream'])
def test_client_whose_subscription_is_late_is_not_left_in_the_hub(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """If a call gives up, the connection ends, also if it has just been subscribed."""
    channels = Channels()
    late = threading.Event()

    class Room:
        async def on_subscribe(self, req: Any, subscription: Any) -> None:
            # It blocks the event loop until the caller has given up.
            assert late.wait(30)

    channels.add_route('room', Room())
    portal = Portal(channels, timeout_s=30.0)
    portal.call(channels.start)
    # The channel is open, and the subscription needs no further wait.
    portal.call(channels.node.hub.joiner.prepare, 'room', ChannelOptions())
    monkeypatch.setattr(portal, '_timeout_s', 0.1)
    req = falcon.Request(testing.create_environ('/'))
    ws: Any = SimpleNamespace(unaccepted=True)
    calls = {
        'WebSocket': lambda: portal.serve(req, ws, 'room'),
        'event stream': lambda: portal.serve_events(req, falcon.Response(), 'room'),
    }
    with pytest.raises(falcon.HTTPServiceUnavailable):
        calls[kind]()
    monkeypatch.setattr(portal, '_timeout_s', 30.0)
    late.set()

    async def connections() -> list[Connection]:
        return channels.connections()

    assert [] == portal.call(connections)
    portal.close()


def test_accepted_client_may_return_after_a_refusal_with_503() -> None:
    """The App would close with 3503, which means that a user was disconnected."""
    channels = Channels(options=NodeOptions(max_connections=1))
    portal = Portal(channels)

    class Room:
        def on_websocket(self, req: Any, ws: Any) -> None:
            ws.accept()
            portal.serve(req, ws, 'room')

    async def connections() -> list[Connection]:
        return channels.connections()

    channels.add_route('room', Room())
    app = App()
    app.add_route('/room', Room())
    with portal, simulate_ws(app, '/room'):
        wait_until(lambda: portal.call(connections), 'the first client is connected')
        with simulate_ws(app, '/room') as second:
            with pytest.raises(ConnectionClosed) as closed:
                second.recv(timeout=30)
    assert closed.value.rcvd is not None
    assert 1013 == closed.value.rcvd.code


def test_output_right_before_the_end_of_an_event_stream_is_read() -> None:
    """The hub can queue output and end the stream while the reader looks for output."""

    class InterruptedTransport(_QueueTransport):
        def _take(self) -> bytes:
            chunk = super()._take()
            self.write(b'last')
            self.close(1000, '')
            return chunk

    thread: Any = SimpleNamespace(wake=lambda callback: callback())
    receiver: Any = None
    transport = InterruptedTransport(thread)
    assert [b'last', b''] == [transport.read(0, receiver), transport.read(0, receiver)]


def test_unused_portal_starts_no_thread(portal: Portal) -> None:
    """The first call starts the thread. `close` before that does nothing."""
    before = threading.active_count()
    other = Portal(Channels())
    assert before == threading.active_count()
    other.close()
    with pytest.raises(ClosedError):
        other.publish('rooms:a', 1)


def test_with_block_closes_the_portal_and_its_channels() -> None:
    """After "with" a portal and its channels are closed."""
    with Portal(make_channels()) as portal:
        assert 1 == portal.publish('rooms:a', 1).position.offset
    assert 'closed' == portal.channels.status
    with pytest.raises(ClosedError):
        portal.publish('rooms:a', 1)


@pytest.mark.parametrize('has_run', [True, False])
def test_with_block_opens_a_closed_portal_with_fresh_channels(has_run: bool) -> None:
    """Each block has channels of its own, as with `async with channels`.

    An app creates its portal when its module is imported, so all tests share it. After
    the first test, it was closed for good.
    """
    portal = Portal(make_channels(), timeout_s=30.0)
    with portal:
        if has_run:
            portal.publish('rooms:a', 'old')
    with pytest.raises(ClosedError):
        portal.publish('rooms:a', 'between')
    for _ in range(2):
        with portal:
            assert 1 == portal.publish('rooms:a', 'new').position.offset
            page = portal.history('rooms:a')
            assert ['new'] == [item.value() for item in page.publications]
    with pytest.raises(ClosedError):
        portal.history('rooms:a')


def test_with_block_of_a_closed_portal_keeps_a_durable_history(tmp_path: Path) -> None:
    """A broker with a file has the publications of an earlier block."""
    channels = Channels(f'sqlite:///{tmp_path}/live.db')
    channels.add_route('rooms:{room}', None, ChannelOptions(history_size=10))
    portal = Portal(channels, timeout_s=30.0)
    for offset in (1, 2, 3):
        with portal:
            assert offset == portal.publish('rooms:a', offset).position.offset


def test_with_block_of_a_closed_portal_refuses_a_broker_object() -> None:
    """A broker that was given as an object starts only once, and the error says so."""
    portal = Portal(Channels(MemoryBroker()), timeout_s=30.0)
    with portal:
        portal.call(portal.channels.start)
    with pytest.raises(ClosedError, match='only if the broker was given as a URL'):
        portal.__enter__()


async def test_portal_of_started_channels_calls_into_their_event_loop() -> None:
    """Threads call into the loop that started the channels; its own calls raise.

    `Portal.close` does not close channels that the application has started.
    """
    channels = make_channels()
    await channels.start()
    portal = Portal(channels, timeout_s=0.1)
    result = await asyncio.to_thread(portal.publish, 'rooms:a', 1)
    assert 1 == result.position.offset
    assert 1 == (await channels.position('rooms:a')).offset
    with pytest.raises(RuntimeError, match='await'):
        portal.publish('rooms:a', 2)
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(portal.call, asyncio.Event().wait)
    portal.close()
    assert 'ok' == channels.status
    await channels.close()


async def test_portal_of_started_channels_refuses_to_serve_and_goes_on() -> None:
    """The portal starts no thread of its own, in which all later calls would fail."""
    channels = make_channels()
    portal = Portal(channels, timeout_s=30.0)
    await channels.start()

    def work() -> int:
        req = falcon.Request(testing.create_environ('/'))
        ws: Any = SimpleNamespace(unaccepted=True)
        with pytest.raises(RuntimeError, match='ASGI app'):
            portal.serve(req, ws, 'rooms:a')
        with pytest.raises(RuntimeError, match='ASGI app'):
            portal.serve_events(req, falcon.Response(), 'rooms:a')
        return portal.publish('rooms:a', 1).position.offset

    assert 1 == await asyncio.to_thread(work)
    await channels.close()


def test_call_into_an_event_loop_that_ends_raises_closed_error() -> None:
    """A call without an answer is ended with the loop of the app."""
    channels = make_channels()
    portal = Portal(channels, timeout_s=30.0)
    began = threading.Event()

    async def forever() -> None:
        began.set()
        await asyncio.Event().wait()

    async def run_app(pool: ThreadPoolExecutor) -> Future[None]:
        await channels.start()
        waiting = pool.submit(portal.call, forever)
        assert await asyncio.to_thread(began.wait, 30)
        await channels.close()
        return waiting

    with ThreadPoolExecutor(1) as pool:
        waiting = asyncio.run(run_app(pool))
        with pytest.raises(ClosedError):
            waiting.result(30)


def test_call_that_comes_after_the_last_step_of_a_loop_raises_closed_error() -> None:
    """A call that the loop of the app has accepted, but never begins, is ended."""
    channels = make_channels()
    portal = Portal(channels, timeout_s=30.0)
    loop = asyncio.new_event_loop()

    async def start() -> None:
        await channels.start()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    loop.run_until_complete(start())
    schedule, accepted = loop.call_soon_threadsafe, threading.Event()

    def accept(*args: Any, **options: Any) -> Any:
        handle = schedule(*args, **options)
        accepted.set()
        return handle

    with ThreadPoolExecutor(1) as pool:
        calls: list[Future[Any]] = []

        def last_step() -> None:
            loop.call_soon_threadsafe = accept  # type: ignore[method-assign]
            calls.append(pool.submit(portal.position, 'rooms:a'))
            assert accepted.wait(30)
            loop.stop()

        loop.call_soon(last_step)
        loop.run_forever()
        loop.close()
        with pytest.raises(ClosedError, match='has ended'):
            calls[0].result(30)
    channels.node.abandon()


def test_call_that_a_closed_loop_has_begun_raises_without_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A call is not cancelled in a closed loop, which would log an error."""
    channels = make_channels()
    portal = Portal(channels, timeout_s=30.0)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(channels.start())
    begun: list[asyncio.Task[Any] | None] = []

    async def wait() -> None:
        begun.append(asyncio.current_task())
        loop.stop()
        await loop.create_future()

    with ThreadPoolExecutor(1) as pool:
        calls: list[Future[Any]] = []
        loop.call_soon(lambda: calls.append(pool.submit(portal.call, wait)))
        loop.run_forever()
        tasks = asyncio.all_tasks(loop) - {begun[0]}
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()
        with pytest.raises(ClosedError, match='has ended'):
            calls[0].result(30)
    assert not [item for item in caplog.records if item.name == 'concurrent.futures']
    channels.node.abandon()


def test_timeout_error_of_a_signal_handler_ends_a_call() -> None:
    """A call does not take it for its own timeout, and cancels its function."""
    channels = make_channels()
    portal = Portal(channels, timeout_s=30.0)
    stopped: Future[None] = Future()
    cancelled = threading.Event()

    async def run_app(begun: Future[None]) -> None:
        async with channels:
            begun.set_result(None)
            await asyncio.wrap_future(stopped)

    main = threading.main_thread().ident
    assert main is not None

    def main_waits() -> bool:
        return sys._current_frames()[main].f_code.co_filename == threading.__file__

    async def wait() -> None:
        await asyncio.to_thread(wait_until, main_waits, 'the main thread waits')
        signal.pthread_kill(main, signal.SIGALRM)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError('the job took too long')

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with ThreadPoolExecutor(1) as pool:
            begun: Future[None] = Future()
            app = pool.submit(lambda: asyncio.run(run_app(begun)))
            try:
                begun.result(30)
                with pytest.raises(TimeoutError, match='took too long'):
                    portal.call(wait)
                assert cancelled.wait(30)
            finally:
                stopped.set_result(None)
            app.result(30)
    finally:
        signal.signal(signal.SIGALRM, before)


async def test_call_after_the_channels_have_closed_binds_the_portal_to_no_loop() -> (
    None
):
    """When an app starts its channels again, threads call into its loop again."""
    channels = make_channels()
    portal = Portal(channels, timeout_s=30.0)
    async with channels:
        await asyncio.to_thread(portal.publish, 'rooms:a', 1)
    with pytest.raises(ClosedError):
        await asyncio.to_thread(portal.publish, 'rooms:a', 2)
    async with channels:
        result = await asyncio.to_thread(portal.publish, 'rooms:a', 3)
        assert result.position == await channels.position('rooms:a')
        await asyncio.to_thread(portal.close)
        assert 'ok' == channels.status


def run(code: str) -> str:
    """Run code in another process; return its output."""
    imports = (
        'from falcon_channels import *\nfrom falcon_channels.portal import Portal\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code.replace('IMPORTS', imports)],
        # NOTE: eventlet's own DNS imports other packages that are installed for tests,
        #   and then cannot patch them.
        env={**os.environ, 'EVENTLET_NO_GREENDNS': 'yes'},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert '' == done.stderr
    return done.stdout.strip()


def test_portal_used_before_a_fork_raises_in_the_child() -> None:
    """A child of a process that used the portal gets an error, and does not hang."""
    code = """IMPORTS
import os
import warnings
channels = Channels()
channels.add_route('rooms:{room}', None)
portal = Portal(channels)
portal.publish('rooms:a', 1)
# Python 3.12 and newer warn about this fork, for the same reason.
warnings.filterwarnings('ignore', 'This process .* is multi-threaded')
if not os.fork():
    try:
        portal.publish('rooms:a', 1)
    except RuntimeError as ex:
        print(ex, flush=True)
    os._exit(0)
os.wait()
"""
    assert 'before the server forked' in run(code)


def test_portal_of_an_app_that_forks_raises_in_the_child() -> None:
    """A child of an app gets an error from each call, and does not hang."""
    code = """IMPORTS
import asyncio
import os
import threading
import warnings
channels = Channels()
channels.add_route('rooms:{room}', None, ChannelOptions(history_size=10))
portal = Portal(channels, timeout_s=20)
# Python 3.12 and newer warn about this fork, for the same reason.
warnings.filterwarnings('ignore', 'This process .* is multi-threaded')
def work():
    if not os.fork():
        calls = [lambda: portal.position('rooms:a'), portal.stream('rooms:b').__enter__]
        for call in calls:
            try:
                call()
            except RuntimeError as ex:
                print(ex, flush=True)
        os._exit(0)
    os.wait()
async def main():
    async with channels:
        await asyncio.to_thread(work)
asyncio.run(main())
"""
    expected = 'the channels were started before the process forked'
    assert [expected] * 2 == [line.split(':')[0] for line in run(code).splitlines()]


def test_greenlets_wait_without_blocking_each_other() -> None:
    """Under gevent, a greenlet that waits for the portal blocks no other greenlet."""
    code = """
from gevent import monkey
monkey.patch_all()
import asyncio
import gevent
import threading
IMPORTS
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


def test_loop_that_ends_late_under_gevent_writes_to_no_other_connection() -> None:
    """A portal whose loop is blocked while it closes still wakes its callers later.

    Its thread wrote to a descriptor that was closed, and then belonged to a connection.
    Callers without a timeout waited for ever.
    """
    code = """
from gevent import monkey
monkey.patch_all()
import gevent
import socket
import threading
from falcon_channels.portal import loop_thread
thread = loop_thread.LoopThread()
thread.start()
loop_thread._START_STOP_TIMEOUT_S = 0.01
unblocked = monkey.get_original('_thread', 'allocate_lock')()
unblocked.acquire()
blocks = threading.Event()
async def block():
    thread.wake(blocks.set)
    unblocked.acquire()
call = gevent.spawn(thread.call, block, timeout_s=None)
blocks.wait()
thread.stop()
gevent.sleep(0.1)
sockets = [sock for _ in range(8) for sock in socket.socketpair()]
unblocked.release()
print(call.join(20) or call.dead)
for sock in sockets:
    sock.setblocking(False)
    try:
        print(sock.recv(1))
    except BlockingIOError:
        pass
"""
    assert ['True'] == run(code).split()


def test_sqlite_broker_under_gevent_stores_publications(tmp_path: object) -> None:
    """A broker that starts threads works where gevent turns threads into greenlets."""
    code = f"""
from gevent import monkey
monkey.patch_all()
IMPORTS
channels = Channels('sqlite:///{tmp_path}/channels.db')
channels.add_route('rooms:{{room}}', None, ChannelOptions(history_size=1000))
portal = Portal(channels)
for n in range(20):
    portal.publish('rooms:a', n)
print([item.value() for item in portal.history('rooms:a').publications])
"""
    assert str(list(range(20))) == run(code)


@pytest.mark.parametrize(
    ('prepare', 'message'),
    [
        ('import eventlet; eventlet.monkey_patch()', 'not work under eventlet'),
        ('import gevent', 'patch_all'),
    ],
)
def test_portal_under_eventlet_or_unpatched_gevent_raises(
    prepare: str, message: str
) -> None:
    """The error under eventlet, and in a greenlet without patches, says what to do."""
    code = f"""
import warnings
warnings.simplefilter('ignore')
{prepare}
IMPORTS
portal = Portal(Channels())
def use():
    try:
        portal.publish('rooms:a', 1)
    except RuntimeError as ex:
        print(ex)
"""
    code += 'gevent.spawn(use).join()' if 'gevent' in prepare else 'use()'
    assert message in run(code)
