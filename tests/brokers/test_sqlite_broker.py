"""The SQLite broker: several processes, killed processes, and unusable files."""

from __future__ import annotations

import asyncio
from collections import Counter
import contextlib
import json
import os
from pathlib import Path
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from typing import Any

import pytest
from support.processes import ROOT
from support.processes import wait_until

from falcon_channels.brokers.base import Append
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.base import Version
from falcon_channels.brokers.sqlite import broker as sqlite_broker
from falcon_channels.brokers.sqlite import clock
from falcon_channels.brokers.sqlite import queries
from falcon_channels.brokers.sqlite import SqliteBroker
from falcon_channels.brokers.sqlite.database_file import connect
from falcon_channels.brokers.sqlite.database_file import prepare
from falcon_channels.brokers.sqlite.database_file import unavailable
from falcon_channels.brokers.sqlite.transaction import Transaction
from falcon_channels.brokers.urls import open_broker
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ChannelFinishedError
from falcon_channels.errors import OptionsError
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.testing import Recorder
from falcon_channels.testing.recorder import eventually

LOG = LogSettings(size=100_000, ttl_s=3600.0)
ITEM = Publication(data=b'1')
SUBSCRIBER = str(ROOT / 'tests' / 'support' / 'broker_subscriber.py')
PUBLISHER = str(ROOT / 'tests' / 'support' / 'broker_publisher.py')


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / 'chat.db'


def start_publisher(path: Path, publishers: int, count: int, *more: str, **options):  # type: ignore[no-untyped-def]
    """Start a process that publishes to ``news``, with its output in a pipe."""
    words = [f'sqlite:///{path}', 'news', str(publishers), str(count), *more]
    options.setdefault('stdout', subprocess.PIPE)
    return subprocess.Popen([sys.executable, PUBLISHER, *words], **options)


def acknowledged(output: bytes) -> dict[int, str]:
    """Return the payloads by offset that a publisher has printed as acknowledged."""
    found = {}
    for line in output.decode().splitlines():
        words = line.split(' ')
        if len(words) == 4:
            found[int(words[1])] = words[3]
    return found


def test_subscribers_in_two_processes_receive_one_order(path: Path) -> None:
    """Subscribers in two processes receive what both publish, in one order."""
    words = [sys.executable, SUBSCRIBER, f'sqlite:///{path}', 'news', '3', '102']
    workers = []
    for _ in range(2):
        worker = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert worker.stdout is not None
        assert b'ready\n' == worker.stdout.readline()
        workers.append(worker)
    publisher = start_publisher(path, 10, 10)
    publisher.communicate(timeout=50)
    # The first process has also received its own first publication.
    extra = start_publisher(path, 1, 1)
    extra.communicate(timeout=50)
    got = [
        json.loads(line)
        for worker in workers
        for line in worker.communicate(timeout=50)[0].splitlines()
    ]
    assert 6 == len(got)
    assert [list(range(1, 103))] * 3 == [[n for n, _ in items] for items in got[:3]]
    assert got[0] == got[1] == got[2]
    assert got[3] == got[4] == got[5]
    assert got[0][1:] == got[3][:-1]


class RacingConnection(sqlite3.Connection):
    """Lets another process prepare the file between two reads of its version."""

    path: Path

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        """Execute a statement."""
        if 'sqlite_master' in sql:
            with (
                contextlib.suppress(sqlite3.Error),
                contextlib.closing(connect(self.path, 0.1)) as other,
            ):
                prepare(self.path, other, 0.1)
        return super().execute(sql, *args)


def test_process_that_starts_while_another_one_creates_the_tables_is_not_refused(
    path: Path,
) -> None:
    """The version is read in one transaction, and the tables are then found."""
    connect(path, 1.0).close()
    connection = sqlite3.connect(path, factory=RacingConnection, isolation_level=None)
    connection.path = path
    prepare(path, connection, 5.0)
    count = connection.execute('SELECT count(*) FROM head').fetchone()
    assert (1,) == count
    connection.close()


async def test_acknowledged_publications_survive_kill_9(path: Path) -> None:
    """All processes are killed while they publish; the file contains each acknowledged
    publication."""
    writers = [start_publisher(path, 50, 100_000) for _ in range(2)]
    outputs = [b'', b'']

    def read_some(number: int) -> None:
        pipe = writers[number].stdout
        assert pipe is not None
        while outputs[number].count(b'\n') < 5000:
            chunk = pipe.read1()
            assert chunk, 'the writer has ended'
            outputs[number] += chunk

    try:
        await asyncio.gather(*(asyncio.to_thread(read_some, n) for n in (0, 1)))
    finally:
        for writer in writers:
            writer.kill()
    stored: dict[int, str] = {}
    count = 0
    for number, writer in enumerate(writers):
        rest, _ = writer.communicate()
        # NOTE: the last line may be incomplete.
        found = acknowledged((outputs[number] + rest).rpartition(b'\n')[0])
        count += len(found)
        stored.update(found)
    assert count >= 10_000
    assert count == len(stored)

    broker = SqliteBroker(path)
    await broker.start(Recorder())
    page = await broker.history('news', LOG)
    in_log = {item.offset: item.data.decode() for item in page.publications}
    assert list(range(1, page.position.offset + 1)) == list(in_log)
    assert stored.items() <= in_log.items()
    assert {1} == set(Counter(in_log.values()).values())
    # The next commits remove the socket names of the killed processes.
    folder = path.with_name('chat.db-news')
    assert 3 == len(list(folder.iterdir()))
    await broker.publish('news', ITEM, LOG)
    wait_until(lambda: len(list(folder.iterdir())) == 1, 'stale sockets are removed')
    await broker.close()
    assert [] == list(folder.iterdir())


async def test_processes_that_start_together_share_a_new_file(path: Path) -> None:
    """Processes that start together on a new file create one database."""
    writers = [start_publisher(path, 1, 5) for _ in range(4)]
    outputs = await asyncio.gather(
        *(asyncio.to_thread(writer.communicate) for writer in writers)
    )
    assert [0] * 4 == [writer.returncode for writer in writers]
    found: list[int] = []
    for output, _ in outputs:
        found += acknowledged(output)
    assert list(range(1, 21)) == sorted(found)


async def test_new_file_is_readable_by_its_owner_only(path: Path) -> None:
    """Other users may not read the database or the files beside it."""
    broker = open_broker(f'sqlite:///{path}')
    await broker.start(Recorder())
    await broker.publish('news', ITEM, LOG)
    files = [file for file in path.parent.iterdir() if file.is_file()]
    assert {'chat.db', 'chat.db-wal', 'chat.db-shm'} <= {file.name for file in files}
    assert [] == [file.name for file in files if file.stat().st_mode & 0o077]
    await broker.close()


async def test_lost_notification_is_replaced_by_polling(path: Path) -> None:
    """A process that gets no notifications of others polls the file."""
    one, two = SqliteBroker(path), SqliteBroker(path, poll_s=0.1)
    recorder = Recorder()
    await one.start(Recorder())
    await two.start(recorder)
    await two.subscribe('news', LOG)
    for name in path.with_name('chat.db-news').iterdir():
        name.unlink()
    await one.publish('news', ITEM, LOG)
    await one.control(b'hello')
    await recorder.until(lambda: recorder.controls, 'the control message')
    assert [1] == recorder.offsets_of('news')
    assert [] == recorder.links
    await one.close()
    await two.close()


async def test_large_unread_rows_are_read_in_parts(path: Path) -> None:
    """A process that is behind reads a few megabytes at once, and misses no row."""
    large = Publication(data=b'"' + b'x' * 1_000_000 + b'"')
    one, two = SqliteBroker(path), SqliteBroker(path)
    recorder = Recorder()
    await one.start(Recorder())
    await two.start(recorder)
    await two.subscribe('news', LOG)
    await asyncio.gather(*[one.publish('news', large, LOG) for _ in range(12)])
    await recorder.until(lambda: len(recorder.of('news')) == 12, 'all publications')
    assert list(range(1, 13)) == recorder.offsets_of('news')
    assert [] == recorder.links
    await one.close()
    await two.close()
    reader = sqlite3.connect(path)
    parts = []
    seen_id, more = 0, True
    while more:
        newest, rows, more = queries.items_after(reader, seen_id)
        assert newest == 12
        parts.append([row[0] for row in rows])
        seen_id = parts[-1][-1]
    reader.close()
    assert [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12]] == parts


async def test_removed_unread_rows_are_reported_as_a_lost_link(path: Path) -> None:
    """If rows were removed before a process has read them, it reports a lost link."""
    broker = SqliteBroker(path, poll_s=0.1)
    recorder = Recorder()
    await broker.start(recorder)
    await broker.subscribe('news', LOG)
    await broker.publish('news', ITEM, LOG)
    other = sqlite3.connect(path)
    with other:
        other.execute('UPDATE head SET last_id = last_id + 7')
    other.close()
    await recorder.until(
        lambda: len(recorder.links) == 2, 'the link is lost and restored'
    )
    assert ['lost', 'restored'] == recorder.links
    await broker.publish('news', ITEM, LOG)
    await recorder.until(lambda: recorder.offsets_of('news') == [1, 2], 'the second')
    await broker.close()


async def test_locked_file_fails_publishes_until_it_is_unlocked(path: Path) -> None:
    """While another process holds the lock, publishes fail in time."""
    # NOTE: a long deadline, because other calls may be slow on a busy machine.
    broker = SqliteBroker(path, timeout_s=5)
    await broker.start(Recorder())
    await broker.publish('news', ITEM, LOG)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute('BEGIN IMMEDIATE')
    with pytest.raises(BrokerUnavailableError, match='another process holds its lock'):
        await broker.publish('news', ITEM, LOG, idempotency_key='k')
    assert 1 == len((await broker.history('news', LOG)).publications)
    other.execute('ROLLBACK')
    other.close()
    for _ in range(2):
        result = await broker.publish('news', ITEM, LOG, idempotency_key='k')
        assert 2 == result.position.offset
    await broker.close()


def _garbage(path: Path) -> None:
    path.write_bytes(b'This is no database. ' * 500)


def _damaged(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute('CREATE TABLE t (x)')
    connection.close()
    data = bytearray(path.read_bytes())
    data[100:200] = b'\xff' * 100
    path.write_bytes(data)


def _other_application(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute('CREATE TABLE users (name)')
    connection.close()


def _other_version(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f'PRAGMA application_id = {0x46614368}')
    connection.execute('PRAGMA user_version = 99')
    connection.close()


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (_garbage, 'damaged, or is not a SQLite database'),
        (_damaged, 'damaged'),
        (_other_application, 'another application'),
        (_other_version, 'format version 99, and this release .* supports version 3'),
        (_folder, 'it is a folder'),
    ],
)
async def test_foreign_or_damaged_file_is_refused_unchanged(
    path: Path, make, message: str
) -> None:
    """A foreign or damaged file is refused with a clear error, and not changed."""
    make(path)
    before = path.read_bytes() if path.is_file() else b''
    broker = SqliteBroker(path)
    with pytest.raises(BrokerUnavailableError, match=message):
        await broker.start(Recorder())
    with pytest.raises(BrokerUnavailableError, match='not open'):
        await broker.publish('news', ITEM, LOG)
    assert before == (path.read_bytes() if path.is_file() else b'')
    await broker.close()


async def test_path_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """A path in a missing folder is refused; a later start may succeed."""
    broker = SqliteBroker(tmp_path / 'data' / 'chat.db')
    with pytest.raises(BrokerUnavailableError, match='data does not exist'):
        await broker.start(Recorder())
    (tmp_path / 'data').mkdir()
    await broker.start(Recorder())
    await broker.publish('news', ITEM, LOG)
    await broker.close()


@pytest.mark.parametrize(
    ('name', 'advice'),
    [
        ('missing/chat.db', 'create it'),
        ('', 'give the path of a file'),
        ('chat.db', 'run all processes as the user who created it'),
    ],
)
def test_file_that_cannot_be_opened_gets_an_error_with_the_reason(
    name: str, advice: str, tmp_path: Path
) -> None:
    """The message says whether the folder is missing or the user is the wrong one."""
    error = sqlite3.OperationalError('unable to open database file')
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    assert advice in str(unavailable(tmp_path / name, error))


async def test_file_damaged_while_open_fails_calls(path: Path) -> None:
    """After damage to the open file calls fail; the broker can still close."""
    broker = SqliteBroker(path, timeout_s=2)
    await broker.start(Recorder())
    for n in range(50):
        await broker.publish(f'news {n}', ITEM, LOG)
    other = sqlite3.connect(path)
    other.execute('PRAGMA wal_checkpoint(TRUNCATE)')
    other.close()
    size = path.stat().st_size
    with path.open('r+b') as file:
        file.seek(4096)
        file.write(b'\xff' * (size - 4096))
    other_broker = SqliteBroker(path)

    async def use() -> None:
        await other_broker.start(Recorder())
        await other_broker.publish('news', ITEM, LOG)

    with pytest.raises(BrokerUnavailableError, match='damaged'):
        await use()
    await other_broker.close()
    await broker.close()


async def test_read_from_a_failing_disk_gets_an_error_with_the_reason(
    path: Path,
) -> None:
    """After an error of the disk, a call raises an error that names the disk."""
    broker = SqliteBroker(path)
    await broker.start(Recorder())
    large = Publication(data=b'"' + b'x' * 60_000 + b'"')
    await asyncio.gather(*[broker.publish('news', large, LOG) for _ in range(50)])
    await broker.close()
    broker = SqliteBroker(path)
    await broker.start(Recorder())
    write_only = os.open(path, os.O_WRONLY)
    for entry in Path('/proc/self/fd').iterdir():
        with contextlib.suppress(OSError):
            if entry.readlink() == path and int(entry.name) != write_only:
                os.dup2(write_only, int(entry.name))
    os.close(write_only)
    with pytest.raises(BrokerUnavailableError, match='disk full or failing'):
        await broker.history('news', LOG)
    await broker.close()


@pytest.mark.parametrize('suffix', ['', '-wal', '-shm'])
async def test_removed_file_is_reported_as_a_lost_link(path: Path, suffix: str) -> None:
    """If an open file is removed, calls fail instead of using another file.

    A process that starts later would otherwise assign the same offsets again.
    """
    broker = SqliteBroker(path, poll_s=0.05)
    recorder = Recorder()
    await broker.start(recorder)
    await broker.publish('news', ITEM, LOG)
    Path(f'{path}{suffix}').unlink()
    await recorder.until(lambda: recorder.links == ['lost'], 'the loss is noticed')
    with pytest.raises(BrokerUnavailableError, match='removed or replaced'):
        await broker.publish('news', ITEM, LOG)
    await broker.close()


@pytest.mark.parametrize('copy', ['vacuum', 'rollback journal'])
async def test_restored_copy_without_a_write_ahead_log_is_not_reported_as_removed(
    path: Path, copy: str
) -> None:
    """A copy may have no write-ahead log; it gets its files after the start."""
    broker = SqliteBroker(path)
    await broker.start(Recorder())
    first = await broker.publish('news', ITEM, LOG)
    await broker.close()
    restored = path.with_name('restored.db')
    connection = sqlite3.connect(path)
    if copy == 'vacuum':
        connection.execute(f"VACUUM INTO '{restored}'")
    else:
        restored = path
        mode = connection.execute('PRAGMA journal_mode = DELETE').fetchone()
        assert mode == ('delete',)
    connection.close()
    one, two = SqliteBroker(restored), SqliteBroker(restored)
    recorder = Recorder()
    await one.start(recorder)
    await two.start(recorder)
    await two.close()
    one._check_file()
    second = await one.publish('news', ITEM, LOG)
    assert second.position == Position(2, first.position.epoch)
    assert [] == recorder.links
    await one.close()


async def test_file_is_not_reported_as_removed_after_a_change_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is below the working folder in which the broker was started."""
    monkeypatch.chdir(tmp_path)
    broker = SqliteBroker('chat.db')
    recorder = Recorder()
    await broker.start(recorder)
    monkeypatch.chdir('/')
    broker._check_file()
    assert (await broker.publish('news', ITEM, LOG)).position.offset == 1
    assert [] == recorder.links
    await broker.close()


async def test_symbolic_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    """A path that leads to no file gets the error of a file that cannot be opened."""
    path = tmp_path / 'chat.db'
    path.symlink_to(path)
    broker = SqliteBroker(path)
    with pytest.raises(BrokerUnavailableError, match=r'chat\.db'):
        await broker.start(Recorder())
    await broker.close()


async def test_file_behind_a_symbolic_link_is_not_reported_as_removed(
    tmp_path: Path,
) -> None:
    """A path may be a symbolic link; SQLite puts its files beside the target."""
    (tmp_path / 'data').mkdir()
    link = tmp_path / 'chat.db'
    link.symlink_to(tmp_path / 'data' / 'real.db')
    broker = SqliteBroker(link, poll_s=0.05)
    other = SqliteBroker(link)
    recorder = Recorder()
    await broker.start(recorder)
    await other.start(Recorder())
    await other.close()
    broker._check_file()
    assert (await broker.publish('news', ITEM, LOG)).position.offset == 1
    assert [] == recorder.links
    await broker.close()


def test_full_disk_fails_publishes_until_there_is_space(path: Path) -> None:
    """While nothing can be written, publishes fail; later they succeed."""
    limit = 700_000
    # NOTE: a file, because the publisher would wait for a pipe that nothing reads.
    with open(path.parent / 'output', 'wb+') as output:
        writer = start_publisher(
            path,
            5,
            300,
            '1000',
            stdout=output,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: resource.setrlimit(
                resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)
            ),
        )
        assert writer.stderr is not None
        complaint = writer.stderr.readline().decode()
        assert complaint.startswith('failed'), complaint
        assert 'disk full or failing' in complaint
        assert None is writer.poll()
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(writer.pid, resource.RLIMIT_FSIZE, unlimited)
        writer.communicate(timeout=50)
        assert 0 == writer.returncode
        output.seek(0)
        printed = output.read()
    assert printed.endswith(b'done\n')
    assert list(range(1, 1501)) == sorted(acknowledged(printed))


async def test_rows_beyond_size_and_age_are_removed_in_the_background(
    path: Path, monkeypatch
) -> None:
    """Rows beyond the size and the age of a log are removed from the file."""
    monkeypatch.setattr('falcon_channels.brokers.sqlite.transaction.GRACE_MS', 100)
    broker = SqliteBroker(path)
    await broker.start(Recorder())
    sized = LogSettings(size=3)
    aged = LogSettings(size=100, ttl_s=0.1)
    for n in range(30):
        await broker.publish('sized', ITEM, sized)
        await broker.publish('aged', ITEM, aged, idempotency_key=str(n))
        await broker.publish('live', ITEM, LogSettings(), idempotency_key=str(n))
    await broker.signal('sized', b's')
    other = sqlite3.connect(path)

    def rows() -> int:
        (count,) = other.execute('SELECT count(*) FROM items').fetchone()
        return int(count)

    async def three() -> bool:
        return rows() == 3

    await eventually(three, 'three rows are left')
    other.close()
    page = await broker.history('sized', sized)
    assert [28, 29, 30] == [item.offset for item in page.publications]
    page = await broker.history('aged', aged)
    assert ([], 30) == (page.publications, page.position.offset)
    await broker.close()


@pytest.mark.parametrize('boot', ['another boot', ''], ids=['boot id', 'no boot id'])
@pytest.mark.parametrize('off_s', [30.0, -1e9], ids=['off for 30 s', 'clock not set'])
async def test_clock_of_the_file_goes_on_after_the_host_has_booted(
    path: Path, monkeypatch, boot: str, off_s: float
) -> None:
    """After a boot, only the time that has passed on the wall clock is added."""
    monkeypatch.setattr('falcon_channels.brokers.sqlite.clock.BOOT', boot and 'first')
    await _add_entries(path)
    monkeypatch.setattr('falcon_channels.brokers.sqlite.clock.BOOT', boot)
    wall_s, monotonic_s = time.time, time.monotonic
    begun_s = monotonic_s()
    with monkeypatch.context() as patch:
        patch.setattr(time, 'time', lambda: wall_s() + off_s)
        # NOTE: only the clock of the file; the event loop also needs this function.
        patch.setattr(
            'falcon_channels.brokers.sqlite.clock.monotonic_ms',
            lambda: int((monotonic_s() - begun_s) * 1000),
        )
        broker = SqliteBroker(path)
        await broker.start(Recorder())
        before = set(await broker.presence('room'))
        await broker.control(b'the first transaction')
        # NOTE: the wall clock is set later, and this jump is ignored.
        patch.setattr(time, 'time', wall_s)
        after = set(await broker.presence('room'))
        await broker.close()
    left = {'long'} if off_s > 0 else {'long', 'short'}
    assert (left, left) == (before, after)


async def _add_entries(path: Path) -> None:
    """Add one presence entry for 20 s and one for 600 s."""
    broker = SqliteBroker(path)
    await broker.start(Recorder())
    for client, ttl_s in (('short', 20.0), ('long', 600.0)):
        info = ClientInfo(user=client, client=client)
        await broker.add_presence([PresenceEntry('room', info)], ttl_s)
    await broker.control(b'the last transaction')
    await broker.close()


async def test_quiet_log_with_subscribers_is_not_removed(path: Path) -> None:
    """A log is not removed while it has subscribers."""
    broker = SqliteBroker(path, poll_s=0.1)
    await broker.start(Recorder())
    short = LogSettings(size=5, ttl_s=1.0, meta_ttl_s=1.5)
    first = await broker.publish('kept', ITEM, short)
    await broker.publish('forgotten', ITEM, short)
    await broker.subscribe('kept', short)

    async def forgotten() -> bool:
        page = await broker.history('forgotten', short)
        return page.position.offset == 0

    await eventually(forgotten, 'the other log is forgotten')
    page = await broker.history('kept', short)
    assert ([], first.position) == (page.publications, page.position)
    await broker.close()


async def test_log_at_the_end_of_its_life_is_kept_for_a_new_subscriber(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log is not removed between a subscription and its first renewal."""
    passed_ms = 0
    monotonic_ms = clock.monotonic_ms
    monkeypatch.setattr(clock, 'monotonic_ms', lambda: monotonic_ms() + passed_ms)
    broker = SqliteBroker(path)
    await broker.start(Recorder())
    settings = LogSettings(size=5, ttl_s=300.0, meta_ttl_s=300.0)
    first = await broker.publish('kept', ITEM, settings)
    await broker.publish('forgotten', ITEM, settings)
    passed_ms = 290_000
    await broker.subscribe('kept', settings)
    passed_ms = 389_000

    async def forgotten() -> bool:
        page = await broker.history('forgotten', settings)
        return page.position.offset == 0

    await eventually(forgotten, 'the other log is forgotten')
    page = await broker.history('kept', settings)
    assert first.position == page.position
    await broker.close()


async def test_subscription_to_an_old_log_needs_no_write(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the file is locked, clients can subscribe to a channel that is quiet.

    Its log is renewed as soon as the file is no longer locked.
    """
    passed_ms = 0
    monotonic_ms = clock.monotonic_ms
    monkeypatch.setattr(clock, 'monotonic_ms', lambda: monotonic_ms() + passed_ms)
    broker = SqliteBroker(path, timeout_s=1.0)
    await broker.start(Recorder())
    settings = LogSettings(size=5, ttl_s=300.0, meta_ttl_s=300.0)
    first = await broker.publish('news', ITEM, settings)
    passed_ms = 290_000
    other = sqlite3.connect(path, isolation_level=None)
    other.execute('BEGIN IMMEDIATE')
    page = await broker.subscribe('news', settings)
    assert first.position == page.position
    query = 'SELECT forget_ms FROM channels'
    (before_ms,) = other.execute(query).fetchone()

    async def failed() -> bool:
        return 'cannot remove expired rows' in caplog.text

    await eventually(failed, 'the first renewal has failed')
    other.execute('ROLLBACK')

    async def renewed() -> bool:
        (forget_ms,) = other.execute(query).fetchone()
        return bool(forget_ms - before_ms > 280_000)

    await eventually(renewed, 'the log is renewed')
    other.close()
    await broker.close()


async def test_logs_of_more_subscribers_than_one_sweep_renews_are_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All due logs are renewed at once, also if they are more than one part."""
    monkeypatch.setattr(sqlite_broker, '_MAX_RENEWED', 2)
    broker = SqliteBroker(path, poll_s=0.1)
    await broker.start(Recorder())
    short = LogSettings(size=5, ttl_s=1.0, meta_ttl_s=3.0)
    names = [f'rooms:{number}' for number in range(40)]
    for name in names:
        await broker.publish(name, ITEM, short)
        await broker.subscribe(name, short)
    await broker.publish('forgotten', ITEM, short)

    async def forgotten() -> bool:
        page = await broker.history('forgotten', short)
        return page.position.offset == 0

    await eventually(forgotten, 'the other log is forgotten')
    pages = [await broker.history(name, short) for name in names]
    assert [1] * len(names) == [page.position.offset for page in pages]
    await broker.close()


async def test_notifications_work_with_a_path_longer_than_a_socket_address(
    tmp_path: Path,
) -> None:
    """A path may be longer than the address of a Unix socket."""
    folder = tmp_path / ('x' * 120)
    folder.mkdir()
    one, two = (SqliteBroker(folder / 'chat.db', poll_s=60) for _ in range(2))
    recorder = Recorder()
    await one.start(Recorder())
    await two.start(recorder)
    await one.control(b'hello')
    await recorder.until(lambda: recorder.controls, 'the control message')
    await one.close()
    await two.close()


@pytest.mark.parametrize(
    ('url', 'path', 'timeout_s'),
    [
        ('sqlite:///chat.db', 'chat.db', 5.0),
        ('sqlite:////var/lib/my%20chat.db?timeout_s=2.5', '/var/lib/my chat.db', 2.5),
    ],
)
def test_url_contains_the_path_of_the_file(
    url: str, path: str, timeout_s: float
) -> None:
    """Three slashes are followed by a relative path, four by an absolute one."""
    broker = open_broker(url)
    assert isinstance(broker, SqliteBroker)
    assert (Path(path), timeout_s) == (broker.path, broker.timeout_s)


@pytest.mark.parametrize(
    'url',
    [
        'sqlite://chat.db',
        'sqlite:///',
        'sqlite://host/chat.db',
        'sqlite:///chat.db?timeout=5',
        'sqlite:///chat.db?timeout_s=0',
        'sqlite:///chat.db?timeout_s=soon',
        'sqlite:///chat.db?timeout_s=nan',
        'sqlite:///chat.db?timeout_s=1&timeout_s=2',
        'sqlite:///chat.db#x',
    ],
)
def test_invalid_url_is_refused(url: str) -> None:
    """An unknown option, a host or a missing path is an error."""
    with pytest.raises(OptionsError):
        open_broker(url)


async def test_file_in_shared_memory_keeps_its_epoch_until_the_reboot() -> None:
    """A file in ``/dev/shm`` is shared by processes and survives their restart."""
    with tempfile.TemporaryDirectory(dir='/dev/shm') as folder:
        url = f'sqlite:///{folder}/chat.db'
        one, two, recorder = open_broker(url), open_broker(url), Recorder()
        await one.start(Recorder())
        await two.start(recorder)
        await two.subscribe('news', LOG)
        first = await one.publish('news', ITEM, LOG)
        await recorder.until(lambda: recorder.publications, 'the publication')
        await one.close()
        await two.close()
        again = open_broker(url)
        await again.start(Recorder())
        second = await again.publish('news', ITEM, LOG)
        assert (2, first.position.epoch) == second.position
        await again.close()


async def test_change_of_another_process_is_seen_by_the_next_publication(
    path: Path,
) -> None:
    """A broker does not use what it knows about a log after another one has changed it.

    It remembers the rows of busy channels only as long as nobody else writes.
    """
    one, other = SqliteBroker(path), SqliteBroker(path)
    for broker in (one, other):
        await broker.start(Recorder())
    try:
        offsets = [
            (await broker.publish('news', ITEM, LOG)).position.offset
            for broker in (one, one, other, one, one, other, other, one)
        ]
        assert list(range(1, 9)) == offsets
        await other.publish('news', Publication(data=b'', end=ChannelEnd()), LOG)
        with pytest.raises(ChannelFinishedError):
            await one.publish('news', ITEM, LOG)
        await other.remove_history('news')
        result = await one.publish('news', ITEM, LOG)
        assert 10 == result.position.offset
    finally:
        await one.close()
        await other.close()


async def test_transaction_that_fails_changes_no_later_offset(path: Path) -> None:
    """After a rollback, the next publication has the offset of the failed one."""

    def fail(transaction: Transaction) -> None:
        transaction.publish('news', ITEM, LOG, None)
        raise ZeroDivisionError

    broker = SqliteBroker(path)
    await broker.start(Recorder())
    try:
        await broker.publish('news', ITEM, LOG)
        with pytest.raises(ZeroDivisionError):
            await broker._write(fail)
        result = await broker.publish('news', ITEM, LOG)
        assert 2 == result.position.offset
        page = await broker.history('news', LOG)
        assert [1, 2] == [item.offset for item in page.publications]
    finally:
        await broker.close()


async def test_publications_that_are_appended_together_have_results_of_their_own(
    path: Path,
) -> None:
    """Each publication is appended, skipped or refused as by its own call."""
    broker, recorder = SqliteBroker(path), Recorder()
    await broker.start(recorder)
    try:
        for channel in ('new', 'old', 'ended'):
            await broker.subscribe(channel, LOG)
        first = await broker.publish('old', ITEM, LOG, version=Version(5))
        end = Publication(data=b'', end=ChannelEnd())
        await broker.publish('ended', end, LOG)
        channels = ['new', 'old', 'ended']
        results = await broker.append_all(
            [Append(channel, ITEM, LOG, Version(5)) for channel in channels]
        )
        assert results[0] is not None
        assert (1, False) == (results[0].position.offset, results[0].skipped)
        assert PublishResult(first.position, skipped=True) == results[1]
        assert results[2] is None
        for channel, size in (('new', 1), ('old', 1), ('ended', 1)):
            page = await broker.history(channel, LOG)
            assert size == len(page.publications)
    finally:
        await broker.close()


async def test_row_that_cannot_be_decoded_hides_no_other_row(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that cannot decode a row logs it, and announces the later rows.

    Another release has written the row, or the file is damaged. The hub notices the gap
    in the offsets.
    """
    one, recorder, other = SqliteBroker(path), Recorder(), SqliteBroker(path)
    await one.start(recorder)
    await other.start(Recorder())
    try:
        await one.subscribe('news', LOG)
        await other.publish('news', ITEM, LOG)

        def damage(transaction: Transaction) -> None:
            transaction.publish('news', ITEM, LOG, None)
            transaction._rows[-1] = (*transaction._rows[-1][:-1], b'garbage')
            transaction.announcements.clear()

        await other._write(damage)
        await other.publish('news', ITEM, LOG)
        await recorder.until(lambda: [1, 3] == recorder.offsets_of('news'), 'both')
        assert 1 == caplog.text.count('cannot decode row 2 of the database')
        assert not recorder.links
    finally:
        await one.close()
        await other.close()
