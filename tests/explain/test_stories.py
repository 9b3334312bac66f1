"""Stories of deliveries, each produced on two processes that share a broker.

docs/explain.md has the same stories in a table: a test compares it with what ran.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
from itertools import count
import json
from pathlib import Path
import re
import signal
import socket
import struct
import time
from typing import Any
from typing import Self

import httpx
import pytest
from support.asgi_servers import SERVE
from support.explain_app import KEY
from support.explain_app import LARGE_BYTES
from support.processes import ServerProcess
from support.processes import wait_until
from support.redis_server import RedisServer
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

pytestmark = [pytest.mark.server, pytest.mark.xdist_group('stories')]

PAGE = Path(__file__).parents[2] / 'docs/explain.md'

#: A publication of which few fill the buffers of a socket.
LARGE = 'x' * (LARGE_BYTES - 2)

Answer = dict[str, Any]


class Client:
    """A client of the client protocol, which reads only when it is asked to.

    Args:
        server: Its process.
        user: Id of its user.
    """

    def __init__(self, server: ServerProcess, user: str) -> None:
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._sock.connect(('127.0.0.1', server.port))
        self._connect = connect(
            f'{server.ws_url}/connection/websocket',
            sock=self._sock,
            proxy=None,
            compression=None,
            max_queue=1,
            close_timeout=1,
        )
        self._user = user
        self._ids = count(1)
        self.id = ''

    def __enter__(self) -> Self:
        self._ws = self._connect.__enter__()
        self.id = self.ask(connect={'data': self._user})['connect']['client']
        return self

    def __exit__(self, *_: object) -> None:
        self._connect.__exit__(None, None, None)

    def ask(self, **command: Any) -> Any:
        """Send a command and return its reply."""
        number = next(self._ids)
        self._ws.send(json.dumps({'id': number, **command}))
        while True:
            reply = self._read()
            if reply.get('id') == number:
                return reply

    def subscribe(self, channel: str, **options: Any) -> Any:
        """Subscribe and return the result or the error."""
        reply = self.ask(subscribe={'channel': channel, **options})
        return reply.get('subscribe', reply.get('error'))

    def publication(self) -> Any:
        """Return the next publication."""
        while True:
            push = self._read().get('push', {})
            if 'pub' in push:
                return push['pub']

    def _read(self) -> Any:
        return json.loads(self._ws.recv(timeout=30))

    def read_fast(self) -> None:
        """Receive more at once from now on."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)

    def close_code(self) -> int:
        """Read everything, and return the close code of the server."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self._ws.recv(timeout=30)
        assert self._ws.close_code is not None
        return self._ws.close_code

    def reset(self) -> None:
        """Lose the connection without a close frame."""
        linger = struct.pack('ii', 1, 0)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


class Stage:
    """Two processes, one channel, and the API of the second process.

    Args:
        one: The process of the clients.
        two: The process that publishes, and that is asked.
        redis: The broker, if it is Redis.
        name: Name of the channels of this story.
    """

    def __init__(
        self,
        one: ServerProcess,
        two: ServerProcess,
        redis: RedisServer | None,
        name: str,
    ) -> None:
        self.one = one
        self.two = two
        self.redis = redis
        self.name = name
        self.room = f'rooms:{name}'

    def call(self, method: str, **request: Any) -> Any:
        """Call the server API of the second process."""
        answer = httpx.post(
            f'{self.two.url}/api/{method}',
            json=request,
            headers={'X-API-Key': KEY},
            timeout=30,
        ).json()
        return answer['result']

    def publish(self, channel: str, data: Any = 1, **options: Any) -> int:
        """Publish at the second process; return the offset."""
        result = self.call('publish', channel=channel, data=data, **options)
        offset: int = result['offset']
        return offset

    def epoch(self, channel: str) -> str:
        epoch: str = self.call('history', channel=channel)['epoch']
        return epoch

    def explain(
        self, channel: str, offset: int, client: Client | None = None, user: str = 'ann'
    ) -> Answer:
        """Return the answer about a client, or the only one."""
        started = time.monotonic()
        answers = self.call('explain', channel=channel, offset=offset, user=user)
        # NOTE: the promise is one second. A busy machine gets more.
        assert time.monotonic() - started < 5
        found: list[Answer] = [
            answer
            for answer in answers['answers']
            if client is None or answer['connection'] == client.id
        ]
        assert 1 == len(found), answers
        return found[0]

    def explain_until(
        self, verdict: str, channel: str, offset: int, client: Client
    ) -> Answer:
        """Ask until the answer has this verdict."""
        answers: list[Answer] = []

        def reached() -> bool:
            answers.append(self.explain(channel, offset, client))
            return bool(answers[-1]['verdict'] == verdict)

        wait_until(reached, f'{verdict}, and not {answers[-1:]}')
        return answers[-1]


# --- the stories ---------------------------------------------------------------------


def delivered_by_another_process(stage: Stage) -> Answer:
    with Client(stage.one, 'ann') as ann:
        ann.subscribe(stage.room)
        before = time.time()
        offset = stage.publish(stage.room)
        assert offset == ann.publication()['offset']
        answer = stage.explain(stage.room, offset, ann)
        assert before <= answer['at'] <= time.time()
        return answer


def delivered_by_the_same_process(stage: Stage) -> Answer:
    with Client(stage.two, 'ann') as ann:
        ann.subscribe(stage.room)
        offset = stage.publish(stage.room)
        assert offset == ann.publication()['offset']
        return stage.explain(stage.room, offset, ann)


def recovered_after_a_reconnect(stage: Stage) -> Answer:
    with Client(stage.one, 'ann') as first:
        start = first.subscribe(stage.room)
    offset = stage.publish(stage.room)
    with Client(stage.two, 'ann') as second:
        since = {'recover': True, 'offset': 0, 'epoch': start['epoch']}
        assert second.subscribe(stage.room, **since)['recovered']
        stage.explain_until('disconnected', stage.room, offset, first)
        return stage.explain(stage.room, offset, second)


def recovered_after_a_gap(stage: Stage) -> Answer:
    assert stage.redis is not None
    with Client(stage.one, 'ann') as ann:
        ann.subscribe(stage.room)
        stage.one.signal(signal.SIGSTOP)
        try:
            stage.redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
            offset = stage.publish(stage.room)
        finally:
            stage.one.signal(signal.SIGCONT)
        assert offset == ann.publication()['offset']
        return stage.explain_until('recovered', stage.room, offset, ann)


def filtered_by_the_application(stage: Stage) -> Answer:
    with Client(stage.one, 'dan') as dan:
        dan.subscribe(stage.room)
        offset = stage.publish(stage.room, tags={'kind': 'sport'})
        assert offset + 1 == stage.publish(stage.room, tags={'kind': 'news'})
        assert offset + 1 == dan.publication()['offset']
        return stage.explain(stage.room, offset, dan, user='dan')


def filtered_by_the_client(stage: Stage) -> Answer:
    with Client(stage.one, 'ann') as ann:
        news = {'key': 'kind', 'cmp': 'eq', 'val': 'news'}
        ann.subscribe(stage.room, tf=news)
        offset = stage.publish(stage.room, tags={'kind': 'sport'})
        stage.publish(stage.room, tags={'kind': 'news'})
        assert offset + 1 == ann.publication()['offset']
        return stage.explain(stage.room, offset, ann)


def _stall(stage: Stage, client: Client, channel: str) -> int:
    """Publish until bytes wait in the process; return the last offset."""
    for _ in range(150):
        offset = stage.publish(channel, LARGE)
        answer = stage.explain(channel, offset, client)
        if answer['verdict'] != 'delivered':
            return offset
    raise AssertionError('nothing waits in the process')


def waits_for_a_slow_client(stage: Stage) -> Answer:
    channel = f'states:{stage.name}'
    with Client(stage.one, 'ann') as ann:
        ann.subscribe(channel)
        _stall(stage, ann, channel)
        offset = stage.publish(channel, 'newest')
        answer = stage.explain_until('pending', channel, offset, ann)
        found = stage.call('connections', user='ann', channel=channel)
        state = found['connections'][ann.id]['state']['channels'][channel]
        assert 'lagging' == state['state']
        assert 0 < state['delivered_offset'] < offset
        assert state['delivered_offset'] == answer['facts']['delivered_offset']
        assert 'subscription' == answer['facts']['waits_in']
        ann.reset()
        return answer


def dropped_for_a_slow_client(stage: Stage) -> Answer:
    channel = f'states:{stage.name}'
    with Client(stage.one, 'ann') as ann:
        ann.subscribe(channel)
        _stall(stage, ann, channel)
        older = stage.publish(channel, 'older')
        newest = stage.publish(channel, 'newest')
        stage.explain_until('dropped', channel, older, ann)
        ann.read_fast()
        while ann.publication()['offset'] != newest:
            pass
        assert 'delivered' == stage.explain(channel, newest, ann)['verdict']
        return stage.explain(channel, older, ann)


def closed_as_slow(stage: Stage) -> Answer:
    channel = f'feeds:{stage.name}'
    with Client(stage.one, 'ann') as ann:
        ann.subscribe(channel)
        offset = 0

        def closed() -> bool:
            nonlocal offset
            offset = stage.publish(channel, LARGE)
            answer = stage.explain(channel, offset, ann)
            return bool(answer['verdict'] == 'disconnected')

        wait_until(closed, 'the slow client is closed')
        answer = stage.explain(channel, offset, ann)
        assert 3008 == answer['facts']['code']
        ann.reset()
        return answer


def lost_with_a_full_buffer(stage: Stage) -> Answer:
    channel = f'queues:{stage.name}'
    with Client(stage.one, 'ann') as ann:
        ann.subscribe(channel)
        offset = _stall(stage, ann, channel)
        ann.reset()
        answer = stage.explain_until('disconnected', channel, offset, ann)
        assert answer['facts']['by_client']
        assert answer['facts']['backlog_bytes'] is None
        assert 'with a backlog of an unknown number of bytes' in answer['text']
        return answer


def subscribed_later(stage: Stage) -> Answer:
    with Client(stage.one, 'ann') as ann:
        offset = stage.publish(stage.room)
        ann.subscribe(stage.room)
        return stage.explain(stage.room, offset, ann)


def refused_by_on_subscribe(stage: Stage) -> Answer:
    with Client(stage.one, 'mallory') as mallory:
        assert 103 == mallory.subscribe(stage.room)['code']
        offset = stage.publish(stage.room)
        return stage.explain(stage.room, offset, mallory, user='mallory')


def unsubscribed_by_a_revocation(stage: Stage) -> Answer:
    with Client(stage.one, 'ann') as ann:
        ann.subscribe(stage.room)
        url = f'{stage.two.url}/revoked/{stage.room}/ann'
        assert 200 == httpx.put(url, timeout=30).status_code
        while 'unsubscribe' not in ann._read().get('push', {}):
            pass
        offset = stage.publish(stage.room)
        return stage.explain(stage.room, offset, ann)


def unsubscribed_by_the_client(stage: Stage) -> Answer:
    with Client(stage.one, 'ann') as ann:
        ann.subscribe(stage.room)
        ann.ask(unsubscribe={'channel': stage.room})
        offset = stage.publish(stage.room)
        return stage.explain(stage.room, offset, ann)


def closed_by_the_client(stage: Stage) -> Answer:
    with Client(stage.one, 'ann') as ann:
        ann.subscribe(stage.room)
    wait_until(
        lambda: stage.room not in stage.call('channels')['channels'],
        'the subscription has ended',
    )
    return stage.explain(stage.room, stage.publish(stage.room), ann)


def disconnected_by_the_server(stage: Stage) -> Answer:
    with Client(stage.one, 'ann') as ann:
        ann.subscribe(stage.room)
        stage.call('disconnect', user='ann')
        assert 3503 == ann.close_code()
    return stage.explain(stage.room, stage.publish(stage.room), ann)


def recovery_is_too_late(stage: Stage) -> Answer:
    with Client(stage.one, 'ann') as ann:
        offset = stage.publish(stage.room)
        since = {'recover': True, 'offset': 0, 'epoch': stage.epoch(stage.room)}
        for _ in range(4):
            stage.publish(stage.room)
        assert not ann.subscribe(stage.room, **since).get('recovered')
        return stage.explain(stage.room, offset, ann)


def not_published_yet(stage: Stage) -> Answer:
    with Client(stage.one, 'ann') as ann:
        ann.subscribe(stage.room)
        return stage.explain(stage.room, stage.publish(stage.room) + 1)


def not_recorded(stage: Stage) -> Answer:
    channel = f'dark:{stage.name}'
    with Client(stage.one, 'ann') as ann:
        ann.subscribe(channel)
        return stage.explain(channel, stage.publish(channel), ann)


def recorded_for_a_limited_time(stage: Stage) -> Answer:
    channel = f'dark:{stage.name}'
    with Client(stage.one, 'eva') as eva:
        eva.subscribe(channel)
        assert 2 == stage.call('record_user', user='eva', for_s=60)['num_nodes']
        offset = stage.publish(channel)
        assert offset == eva.publication()['offset']
        stage.call('record_user', user='eva', for_s=0)
        return stage.explain(channel, offset, eva, user='eva')


def process_does_not_answer(stage: Stage) -> Answer:
    with Client(stage.two, 'ann') as ann:
        ann.subscribe(stage.room)
        offset = stage.publish(stage.room)
        stage.one.signal(signal.SIGSTOP)
        try:
            answers = stage.call(
                'explain', channel=stage.room, offset=offset, user='ann'
            )['answers']
        finally:
            stage.one.signal(signal.SIGCONT)
        # The answer of the other process is there.
        assert 'delivered' == answers[0]['verdict']
        assert ann.id == answers[0]['connection']
        wait_until(
            lambda: len(stage.call('info')['nodes']) == 2, 'both processes answer'
        )
        silent: Answer = answers[-1]
        return silent


#: Stories by their words in docs/explain.md.
STORIES: dict[str, Callable[[Stage], Answer]] = {
    'Ann is subscribed at the process that publishes': delivered_by_the_same_process,
    'Ann is subscribed at another process': delivered_by_another_process,
    'Ann reconnects and recovers': recovered_after_a_reconnect,
    'The process of Ann loses its link to Redis, and reads the log': (
        recovered_after_a_gap
    ),
    'The filter that `on_subscribe` set does not match': filtered_by_the_application,
    "The filter of Ann's client does not match": filtered_by_the_client,
    "Ann's client reads too slowly, and the newest state waits": (
        waits_for_a_slow_client
    ),
    "Ann's client reads too slowly, and a newer state replaces this one": (
        dropped_for_a_slow_client
    ),
    "Ann's client reads too slowly, and the connection is closed": closed_as_slow,
    "Ann's connection is lost while bytes wait for it": lost_with_a_full_buffer,
    'Ann subscribes later, without a position': subscribed_later,
    '`on_subscribe` refuses Mallory': refused_by_on_subscribe,
    "Ann's right was revoked before": unsubscribed_by_a_revocation,
    'Ann has unsubscribed before': unsubscribed_by_the_client,
    'Ann has closed the page before': closed_by_the_client,
    'The back end has disconnected Ann before': disconnected_by_the_server,
    'Ann recovers, but the log does not go back far enough': recovery_is_too_late,
    'The offset is higher than the newest one': not_published_yet,
    'Nothing was recorded': not_recorded,
    'Eva was recorded with `record_user`': recorded_for_a_limited_time,
    'A process does not answer': process_does_not_answer,
}

#: Stories that run with Redis only. SQLite has no link to lose, and filling a socket
#: takes a second for each story.
NEEDS_REDIS = {
    recovered_after_a_gap,
    waits_for_a_slow_client,
    dropped_for_a_slow_client,
    closed_as_slow,
    lost_with_a_full_buffer,
}

CASES = [
    pytest.param(broker, words, id=f'{story.__name__}-{broker}')
    for broker in ('sqlite', 'redis')
    for words, story in STORIES.items()
    if broker == 'redis' or story not in NEEDS_REDIS
]


@pytest.fixture(scope='module')
def sqlite(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[ServerProcess, ServerProcess, None]]:
    url = f'sqlite:///{tmp_path_factory.mktemp("stories")}/channels.db'
    with two_processes(url) as (one, two):
        yield one, two, None


@pytest.fixture(scope='module')
def redis(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[ServerProcess, ServerProcess, RedisServer]]:
    server = RedisServer(tmp_path_factory.mktemp('stories'))
    try:
        with two_processes(server.url) as (one, two):
            yield one, two, server
    finally:
        server.stop()


@contextlib.contextmanager
def two_processes(url: str) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    command = SERVE.command('support.explain_app:app')
    env = {'PYTHONPATH': 'tests', 'BROKER': url}
    with ServerProcess(command, env=env) as one, ServerProcess(command, env=env) as two:
        stage = Stage(one, two, None, '')
        wait_until(
            lambda: len(stage.call('info')['nodes']) == 2, 'both processes have started'
        )
        yield one, two


def table() -> dict[str, tuple[str, str]]:
    """Return verdict and words of each story in docs/explain.md."""
    section = PAGE.read_text().partition('## Stories')[2].partition('\n## ')[0]
    rows = re.findall(r'^\| (.+?) \| `(\w+)` \| (.+?) \|$', section, re.MULTILINE)
    return {story: (verdict, words) for story, verdict, words in rows}


def test_page_has_the_stories_that_run() -> None:
    """The table of docs/explain.md and the list here have the same stories."""
    assert list(STORIES) == list(table())


@pytest.mark.parametrize(('broker', 'words'), CASES)
def test_story_ends_as_the_page_says(
    request: pytest.FixtureRequest, broker: str, words: str
) -> None:
    """Each story has the verdict of the page, and its answer contains the words."""
    story = STORIES[words]
    one, two, server = request.getfixturevalue(broker)
    answer = story(Stage(one, two, server, story.__name__))
    verdict, text = table()[words]
    assert verdict == answer['verdict'], answer
    for part in text.split(' ... '):
        assert part in answer['text'], answer
