"""Measure the time to recovery after the links of all clients break at once.

    python -m benchmarks.recovery --clients 500 --missed 100

Clients are the official Python SDK's, each subscribed to one channel with history. They
connect through a relay, which cuts all links; meanwhile publications are missed. The
clock starts when the relay lets them in again, and stops when every client has every
publication; one that comes twice or not at all is an error. The server's CPU time is
read from /proc, so that it is the server's alone.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
import json
import os
from pathlib import Path
import socket
import subprocess
import sys
import time
from typing import Any
from typing import NamedTuple
import urllib.request

from centrifuge import Client
from centrifuge import ConnectingContext
from centrifuge import PublicationContext
from centrifuge import SubscribedContext
from centrifuge import SubscriptionEventHandler

APP = 'benchmarks.apps.recovery:app'
CHANNEL = 'rooms:all'
TIMEOUT_S = 120.0


class Outcome(NamedTuple):
    """The result of a run.

    Attributes:
        recovered: Subscriptions that were told that nothing is missing.
        complete: Clients that have every publication exactly once and in order.
        seconds: From the relay letting them in to the last client being complete.
        server_cpu_s: CPU time of the server in that time.
    """

    recovered: int
    complete: int
    seconds: float
    server_cpu_s: float


class Relay:
    """Relays bytes until it cuts every link."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open = True
        self._writers: set[asyncio.StreamWriter] = set()
        self._links = 0

    async def start(self) -> int:
        """Listen, and return the port."""
        server = await asyncio.start_server(self._accept, '127.0.0.1', 0, backlog=2048)
        port: int = server.sockets[0].getsockname()[1]
        self._server = server
        return port

    def cut(self) -> None:
        """Cut every link and refuse new ones."""
        self._open = False
        for writer in list(self._writers):
            writer.transport.abort()

    def mend(self) -> None:
        """Accept clients again."""
        self._open = True

    async def close(self) -> None:
        """Close the relay."""
        self.cut()
        self._server.close()
        await until(lambda: not self._links, 'all links are gone')

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if not self._open:
            writer.transport.abort()
            return
        try:
            inner_reader, inner_writer = await asyncio.open_connection(
                '127.0.0.1', self._port
            )
        except OSError:
            writer.transport.abort()
            return
        self._links += 1
        await asyncio.gather(
            self._pass(reader, inner_writer), self._pass(inner_reader, writer)
        )
        self._links -= 1

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._writers.add(writer)
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except OSError:
            return
        finally:
            self._writers.discard(writer)
            writer.transport.abort()


class Listener(SubscriptionEventHandler):
    """Counts the publications of one client."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.recovered = 0

    async def on_subscribed(self, ctx: SubscribedContext) -> None:
        self.recovered += ctx.was_recovering and ctx.recovered

    async def on_publication(self, ctx: PublicationContext) -> None:
        self.seen.append(ctx.pub.data)


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def publish(port: int, first: int, count: int) -> None:
    """Publish numbers from the server's side."""
    urllib.request.urlopen(
        urllib.request.Request(
            f'http://127.0.0.1:{port}/publish',
            json.dumps({'first': first, 'count': count}).encode(),
            {'Content-Type': 'application/json'},
        ),
        timeout=TIMEOUT_S,
    ).close()


async def until(condition: Any, what: str) -> None:
    """Return when `condition()` is true."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        await asyncio.sleep(0.02)


async def run(port: int, pid: int, clients: int, missed: int) -> Outcome:
    """Break the links of all clients once, and wait until they have recovered."""
    relay = Relay(port)
    url = f'ws://127.0.0.1:{await relay.start()}/connection/websocket'
    listeners = [Listener() for _ in range(clients)]
    states: Counter[str] = Counter()
    connections = []
    for listener in listeners:
        client = Client(url, proxy=None, timeout=60.0, max_reconnect_delay=1.0)

        async def on_connecting(ctx: ConnectingContext) -> None:
            states['connecting'] += 1

        client.events.on_connecting = on_connecting
        subscription = client.new_subscription(CHANNEL, events=listener)
        await client.connect()
        await subscription.subscribe()
        connections.append((client, subscription))
    await asyncio.gather(*(subscription.ready() for _, subscription in connections))
    await asyncio.to_thread(publish, port, 0, 1)
    await until(lambda: all(one.seen == [0] for one in listeners), 'the first arrives')
    before = states['connecting']
    relay.cut()
    await until(lambda: states['connecting'] >= before + clients, 'all are cut off')
    await asyncio.to_thread(publish, port, 1, missed)
    expected = list(range(missed + 1))
    started_s, cpu_before_s = time.monotonic(), cpu_s(pid)
    relay.mend()
    await until(
        lambda: all(len(one.seen) > missed for one in listeners), 'all is there'
    )
    seconds, server_cpu_s = time.monotonic() - started_s, cpu_s(pid) - cpu_before_s
    await asyncio.gather(*(client.disconnect() for client, _ in connections))
    await relay.close()
    return Outcome(
        recovered=sum(one.recovered for one in listeners),
        complete=sum(one.seen == expected for one in listeners),
        seconds=seconds,
        server_cpu_s=server_cpu_s,
    )


def main() -> None:
    """Run the benchmark and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--clients', type=int, default=500)
    parser.add_argument('--missed', type=int, default=100)
    args = parser.parse_args()
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        port = sock.getsockname()[1]
    command = str(Path(sys.executable).with_name('falcon-channels'))
    server = subprocess.Popen(
        [command, 'serve', APP, '--port', str(port), '--log-level', 'warning']
    )
    try:
        while True:
            try:
                socket.create_connection(('127.0.0.1', port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        outcome = asyncio.run(run(port, server.pid, args.clients, args.missed))
    finally:
        server.terminate()
        server.wait()
    print(f'{args.clients} clients, {args.missed} missed publications each: {outcome}')


if __name__ == '__main__':
    main()
