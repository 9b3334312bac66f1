"""Answers that are written in small chunks: through a channel, and by Falcon alone.

Each request starts its own answer. A chunk has the time of its write. By default, one
task writes the chunks of all streams, so that a chunk costs nearly nothing before it is
written. With ``PRODUCERS=tasks``, each stream has a task that sleeps until its next
chunk.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import random
import time

import falcon.asgi
from falcon.asgi import SSEvent

from falcon_channels import ChannelOptions
from falcon_channels import Channels

CHUNKS_PER_S = float(os.environ.get('CHUNKS_PER_S', '30'))
TEXT = 'x' * 24

channels = Channels(os.environ.get('CHANNELS_URL', 'memory://'))
channels.add_route(
    'answers:{answer}', None, ChannelOptions(history_size=1000, history_ttl_s=60)
)
writers = set()


async def chunks():
    """Yield chunks at the rate of a language model, from a random moment on."""
    loop = asyncio.get_running_loop()
    due_s = loop.time() + random.random()
    while True:
        await asyncio.sleep(max(0, due_s - loop.time()))
        due_s += 1 / CHUNKS_PER_S
        yield {'t': time.monotonic_ns(), 'text': TEXT}


class Clock:
    """Writes the chunks of all streams, each at its own times."""

    def __init__(self):
        #: For each stream, its writer and the time of its next chunk: a heap.
        self._streams = []
        self._task = None

    async def write(self, stream):
        """Write chunks to a stream until the task is cancelled."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + random.random()
        heapq.heappush(self._streams, (due_s, len(self._streams), stream))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        await loop.create_future()

    async def _run(self):
        clock = asyncio.get_running_loop().time
        while True:
            now_s = clock()
            while self._streams[0][0] <= now_s:
                due_s, number, stream = self._streams[0]
                due_s += 1 / CHUNKS_PER_S
                heapq.heapreplace(self._streams, (due_s, number, stream))
                await stream.write(as_text(time.monotonic_ns(), TEXT))
            await asyncio.sleep(0.002)


CLOCK = Clock() if os.environ.get('PRODUCERS', 'clock') == 'clock' else None


def as_text(time_ns, text):
    """Return a chunk as text.

    NOTE: it is as cheap as possible, because a model sends text, and no JSON.
    """
    return f'{{"t": {time_ns}, "text": "{text}"}}\n'


async def write_answer(name):
    """Publish each chunk."""
    async for chunk in chunks():
        await channels.publish(name, chunk)


async def stream_answer(name):
    """Write each chunk as text, which the writer may join with the next ones."""
    async with channels.stream(name) as stream:
        if CLOCK is not None:
            await CLOCK.write(stream)
        async for chunk in chunks():
            await stream.write(as_text(chunk['t'], chunk['text']))


class Answer:
    """An answer in a channel.

    Args:
        write: Coroutine function that writes the answer to a channel.
    """

    def __init__(self, write):
        self._write = write

    async def on_get(self, req, resp, answer):
        name = f'answers:{answer}'
        await channels.serve_events(req, resp, name)
        task = asyncio.create_task(self._write(name))
        writers.add(task)
        task.add_done_callback(writers.discard)


class ByHand:
    """An answer without a channel, which ends with its connection."""

    async def on_get(self, req, resp, answer):
        async def events():
            async for chunk in chunks():
                yield SSEvent(json=chunk)

        resp.sse = events()


app = falcon.asgi.App(middleware=[channels])
app.add_route('/answers/{answer}', Answer(write_answer))
app.add_route('/streams/{answer}', Answer(stream_answer))
app.add_route('/by-hand/{answer}', ByHand())
