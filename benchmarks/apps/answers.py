"""Answers that are written in small chunks: through a channel, and by Falcon alone.

Each request starts its own answer. A chunk has the time of its write.
"""

from __future__ import annotations

import asyncio
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


async def write_answer(name):
    """Publish each chunk."""
    async for chunk in chunks():
        await channels.publish(name, chunk)


async def stream_answer(name):
    """Write each chunk as text, which the writer may join with the next ones."""
    async with channels.stream(name) as stream:
        async for chunk in chunks():
            # NOTE: as cheap as possible, because a model sends text, and no JSON.
            await stream.write(f'{{"t": {chunk["t"]}, "text": "{chunk["text"]}"}}\n')


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
