"""Measure the cost of requests of operators: the inspector and the server API.

    python -m benchmarks.inspector

Nobody looks: the CPU time of a connection that opens, subscribes and closes, with and
without `add_inspector`. Both take turns in one process. A publication to many
subscribers is measured in the same way.

Somebody looks: the CPU time of one request at a process with many channels, and of the
longest part of it during which the event loop does nothing else. The requests of the
server API are measured in the same way, with their encoding as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from functools import partial
import statistics
import time
from typing import Any

import falcon.asgi
from falcon.testing import create_asgi_req
import msgspec

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import NodeOptions
from falcon_channels.inspector.recent_events import RecentEvents
from falcon_channels.inspector.surveys import InspectorSurveys
from falcon_channels.server_api.methods import ApiMethods
from falcon_channels.testing import SimulatedClient

_ROUNDS = 15
_NUM_CONNECTIONS = 20_000


def make_channels(inspected: bool) -> Channels:
    """Return channels that one client may fill, with or without the inspector."""
    channels = Channels(options=NodeOptions(max_channels_per_connection=10**6))
    channels.add_route('rooms:{room}', None, ChannelOptions(subscribers='anybody'))
    channels.add_route(
        'present:{room}',
        None,
        ChannelOptions(subscribers='anybody', presence=True, history_size=1),
    )
    if inspected:
        channels.add_inspector(falcon.asgi.App(), keys='a-key-for-reading')
    return channels


async def connections(channels: Channels, number: int) -> None:
    """Open connections that subscribe, and close them."""
    for _ in range(number):
        async with SimulatedClient(channels, user='ann') as client:
            await client.subscribe('rooms:a')


async def compare(
    name: str,
    unit: str,
    run: Callable[[Channels, int], Awaitable[None]],
    number: int,
    both: tuple[Channels, Channels],
) -> None:
    """Print the CPU time of a unit without and with the inspector, and the ratio."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS):
        for channels, found in zip(both, times, strict=True):
            began_s = time.process_time()
            await run(channels, number)
            found.append((time.process_time() - began_s) / number * 1e6)
    without, with_it = map(statistics.median, times)
    ratios = [b / a for a, b in zip(*times, strict=True)]
    print(
        f'{name}: {without:.2f} us per {unit} without, {with_it:.2f} us with the '
        f'inspector, ratio {statistics.median(ratios):.3f}'
    )


async def measure_idle() -> None:
    """Print what the inspector costs while nobody looks."""
    both = make_channels(False), make_channels(True)
    await compare('connection', 'connection', connections, 1000, both)
    clients: list[SimulatedClient] = []
    for channels in both:
        for _ in range(500):
            client = SimulatedClient(channels)
            await client.__aenter__()
            await client.subscribe('rooms:a')
            clients.append(client)

    async def publish(channels: Channels, number: int) -> None:
        for _ in range(number):
            await channels.publish('rooms:a', 'x')
            await asyncio.sleep(0)

    await compare('fan-out to 500', 'publication', publish, 200, both)
    for client in clients:
        await client.__aexit__(None, None, None)
    for channels in both:
        await channels.close()


async def longest_pause(run: Callable[[], Awaitable[Any]]) -> tuple[float, float]:
    """Return the CPU time of a call, and of its longest part without a pause, in ms."""
    pauses: list[float] = []
    done = asyncio.Event()

    async def tick() -> None:
        last_s = time.process_time()
        while not done.is_set():
            await asyncio.sleep(0)
            now_s = time.process_time()
            pauses.append(now_s - last_s)
            last_s = now_s

    ticking = asyncio.ensure_future(tick())
    await asyncio.sleep(0)
    began_s = time.process_time()
    await run()
    used_s = time.process_time() - began_s
    done.set()
    await ticking
    return used_s * 1e3, max(pauses) * 1e3


async def measure_look(num_channels: int) -> None:
    """Print what one request costs at a process with many channels."""
    channels = make_channels(False)
    surveys = InspectorSurveys(channels.node, RecentEvents())
    async with SimulatedClient(channels) as client:
        for number in range(num_channels):
            await client.subscribe(f'rooms:{number}')
        for name, run in (
            ('overview', surveys.overview),
            ('channels', lambda: surveys.largest_channels('', 100)),
            ('channels that match', lambda: surveys.largest_channels('99', 100)),
        ):
            await print_look(f'{name}, {num_channels} channels', run)
        await measure_requests(
            channels,
            f'{num_channels} channels',
            [('channels', {}), ('channels', {'pattern': '*99*'}), ('info', {})],
        )
    clients = [SimulatedClient(channels) for _ in range(_NUM_CONNECTIONS)]
    for client in clients:
        await client.__aenter__()
        await client.subscribe('present:all')
    await channels.publish('present:all', 1)
    await asyncio.sleep(0.1)
    await print_look(
        f'slow readers, {_NUM_CONNECTIONS} connections',
        lambda: surveys.slow_readers(100),
    )
    both = {'user': '', 'channel': 'present:all', 'limit': 1000}
    await measure_requests(
        channels,
        f'{_NUM_CONNECTIONS} connections',
        [
            ('connections', {'limit': 1000}),
            ('connections', both),
            ('presence', {'channel': 'present:all'}),
            ('explain', {'channel': 'present:all', 'offset': 1, 'user': ''}),
        ],
    )
    for client in clients:
        await client.__aexit__(None, None, None)
    await channels.close()


async def measure_requests(
    channels: Channels, crowd: str, requests: list[tuple[str, dict[str, Any]]]
) -> None:
    """Print what requests of the server API cost."""
    methods = ApiMethods(channels.node)
    req = create_asgi_req()

    async def call(name: str, body: bytes) -> bytes:
        answer = await methods.call(name, body, req)
        assert 'result' in answer, answer
        return msgspec.json.encode(answer)

    for name, fields in requests:
        body = msgspec.json.encode(fields)
        await print_look(
            f'server API: {name} {body.decode()}, {crowd}', partial(call, name, body)
        )


async def print_look(name: str, run: Callable[[], Awaitable[Any]]) -> None:
    """Print the medians of several calls."""
    found = [await longest_pause(run) for _ in range(_ROUNDS)]
    used_ms = statistics.median(used for used, _ in found)
    pause_ms = statistics.median(pause for _, pause in found)
    print(f'{name}: {used_ms:.1f} ms of CPU time, longest part {pause_ms:.1f} ms')


async def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--channels', type=int, default=100_000)
    arguments = parser.parse_args()
    await measure_idle()
    await measure_look(arguments.channels)


if __name__ == '__main__':
    asyncio.run(main())
