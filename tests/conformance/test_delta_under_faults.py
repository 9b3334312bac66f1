"""Deltas while connections are cut: every SDK restores every state, byte by byte.

Two processes share each broker. The official SDKs for JavaScript and Python follow a
state over a proxy in front of each process. The proxies reset connections at random,
and each SDK recovers what it missed.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from collections.abc import Iterator
import contextlib
import json
from pathlib import Path
import random
from typing import Any

from centrifuge import Client
from centrifuge import codecs
from centrifuge import DeltaType
from centrifuge import SubscriptionEventHandler
import httpx
import pytest
from support.asgi_servers import SERVE
from support.postgres_server import PostgresServer
from support.processes import ServerProcess
from support.proxy import Proxy
from support.redis_server import RedisServer
from support.sdk_tasks import finish_tasks

JS = Path(__file__).with_name('js')
COUNT = 60
TIMEOUT_S = 60

pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(180),
    pytest.mark.xdist_group('delta under faults'),
]


@pytest.fixture(params=['memory', 'sqlite', 'redis', 'postgresql'])
def broker_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == 'memory':
        yield 'memory://'
    elif request.param == 'sqlite':
        yield f'sqlite:///{tmp_path}/state.db'
    elif request.param == 'redis':
        redis = RedisServer(tmp_path)
        yield redis.url
        redis.stop()
    else:
        postgres = PostgresServer('fsync=off')
        yield f'{postgres.url}?migrate=yes'
        postgres.stop()


def states(chance: random.Random) -> list[bytes]:
    """Return JSON states that change a little, much, or in their length."""
    state = [{'id': number, 'text': f'Größe {number} €'} for number in range(80)]
    found = []
    for number in range(COUNT):
        for _ in range(chance.choice([1, 1, 4, 20])):
            record = chance.choice(state)
            record['text'] = chance.choice(['', '😀', 'ä' * 30]) + str(number)
        if chance.random() < 0.1:
            chance.shuffle(state)
        if chance.random() < 0.1:
            state = state[: chance.randint(1, 80)]
        state += [{'id': number, 'text': 'new'}] * (80 - len(state))
        state = [dict(record) for record in state]
        shown: Any = state if chance.random() < 0.95 else [number]
        found.append(json.dumps(shown, ensure_ascii=False, separators=(',', ':')))
    return [text.encode() for text in found]


class Follower(SubscriptionEventHandler):
    """A client of the Python SDK; it records each publication."""

    def __init__(self, port: int, use_protobuf: bool) -> None:
        self.received: list[tuple[int, bytes]] = []
        self.done = asyncio.Event()
        self._protobuf = use_protobuf
        self.client = Client(
            f'ws://127.0.0.1:{port}/connection/websocket',
            use_protobuf=use_protobuf,
            min_reconnect_delay=0.02,
            max_reconnect_delay=0.1,
        )
        self.subscription = self.client.new_subscription(
            'state', self, delta=DeltaType.FOSSIL
        )

    async def on_publication(self, ctx: Any) -> None:
        data = ctx.pub.data
        if not self._protobuf:
            # NOTE: the states are written in this form, so that bytes are compared.
            data = json.dumps(data, ensure_ascii=False, separators=(',', ':')).encode()
        self.received.append((ctx.pub.offset, data))
        if ctx.pub.offset == COUNT:
            self.done.set()


@contextlib.asynccontextmanager
async def proxies(servers: list[ServerProcess]) -> AsyncIterator[list[Proxy]]:
    found = [Proxy(server.port) for server in servers]
    for proxy in found:
        await proxy.mend()
    yield found
    for proxy in found:
        await proxy.cut()


async def publish_all(
    servers: list[ServerProcess],
    links: list[Proxy],
    wanted: list[bytes],
    chance: random.Random,
) -> None:
    """Publish all states, and cut connections meanwhile."""
    async with httpx.AsyncClient() as http:
        for number, state in enumerate(wanted, 1):
            server = chance.choice(servers)
            query = f'key={number}&delta={"no" if chance.random() < 0.05 else "yes"}'
            url = f'http://127.0.0.1:{server.port}/state?{query}'
            answer = await http.post(url, content=state)
            assert {'offset': number} == answer.raise_for_status().json()
            if chance.random() < 0.4:
                chance.choice(links).drop_one(chance)
            if chance.random() < 0.3:
                await asyncio.sleep(chance.uniform(0.0, 0.08))


async def scenario(servers: list[ServerProcess], seed: int) -> dict[str, int]:
    """Return how many deltas each client has received."""
    chance = random.Random(seed)
    wanted = states(chance)
    async with proxies(servers) as links:
        node = await asyncio.create_subprocess_exec(
            *('node', 'follow.mjs', f'127.0.0.1:{links[0].port}', str(COUNT)),
            cwd=JS,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=2**20,
        )
        try:
            followers = [
                Follower(link.port, use_protobuf)
                for link in links
                for use_protobuf in (False, True)
            ]
            for follower in followers:
                await follower.client.connect()
                await follower.subscription.subscribe()
                await follower.subscription.ready()
            assert node.stdout is not None
            first = await asyncio.wait_for(node.stdout.readline(), TIMEOUT_S)
            assert b'following\n' == first
            await publish_all(servers, links, wanted, chance)
            async with asyncio.timeout(TIMEOUT_S):
                for follower in followers:
                    await follower.done.wait()
                output, errors = await node.communicate()
            assert 0 == node.returncode, errors.decode()
        finally:
            with contextlib.suppress(ProcessLookupError):
                node.kill()
        for follower in followers:
            await follower.client.disconnect()
        await finish_tasks()
    expected = list(enumerate(wanted, 1))
    for follower in followers:
        assert expected == follower.received
    *lines, last = map(json.loads, output.splitlines())
    received: dict[str, list[tuple[int, bytes]]] = {}
    for name, offset, text in lines:
        received.setdefault(name, []).append((offset, base64.b64decode(text)))
    for publications in received.values():
        assert expected == publications
    assert {'json', 'protobuf', 'http_stream', 'sse'} == {*received}
    deltas: dict[str, int] = last
    return deltas


def test_official_sdks_restore_every_state_while_their_connections_are_cut(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No SDK misses a state, or restores another one, whatever happens to its link."""
    num_deltas = 0
    apply_delta = codecs.apply_delta

    def counted(*args: Any) -> Any:
        nonlocal num_deltas
        num_deltas += 1
        return apply_delta(*args)

    monkeypatch.setattr(codecs, 'apply_delta', counted)
    env = {'CHANNELS_URL': broker_url, 'PYTHONPATH': 'tests'}
    command = SERVE.command('support.delta_app:app')
    count = 1 if broker_url == 'memory://' else 2
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(ServerProcess(command, env=env)) for _ in range(count)
        ]
        deltas = asyncio.run(scenario(servers, seed=count))
    # Most states are deltas, in spite of all the cuts.
    assert min(deltas.values()) > COUNT // 3
    assert num_deltas > COUNT * 2 * count // 3
