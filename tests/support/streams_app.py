"""An app with several workers that write streams, which a test kills.

The channels are on the broker in BROKER. `answer(number)` is the same in every process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import os
from typing import Any

import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EventStreamOptions
from falcon_channels import StreamWriterOptions

OPTIONS = ChannelOptions(
    history_size=10_000, recovery_limit=10_000, subscribers='anybody'
)
STREAM = EventStreamOptions(history=None, json=True, retry_ms=100)
#: Number of chunks of an answer, and seconds between two of them.
CHUNKS, PAUSE_S = 600, 0.004

channels = Channels(os.environ.get('BROKER'))
channels.add_route('answers:{number}', None, OPTIONS)


def answer(number: int) -> Iterator[Any]:
    """Yield the chunks of an answer: texts, and a dict after some of them.

    An even number has texts only.
    """
    for n in range(CHUNKS):
        lines = '\n' * (n % 3)
        yield f'{n} is a number é"\\{lines}' * (n % 4)
        if n % 50 == 0 and number % 2:
            yield {'chunk': n}


class Worker:
    async def on_get(self, req: Any, resp: Any) -> None:
        resp.text = str(os.getpid())


class Answer:
    """An answer, which this process writes after a POST.

    Attributes:
        ends: How the writers of this process have ended, by the number of the answer.
    """

    def __init__(self) -> None:
        self.ends: dict[int, list[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def on_get(self, req: Any, resp: Any, number: int) -> None:
        name = f'answers:{number}'
        await channels.serve_events(req, resp, name, options=STREAM)

    async def on_post(self, req: Any, resp: Any, number: int) -> None:
        waits = req.get_param_as_bool('waits')
        task = asyncio.create_task(self._write(number, waits))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def on_delete(self, req: Any, resp: Any, number: int) -> None:
        resp.media = await channels.abort_stream(f'answers:{number}')

    async def on_get_ends(self, req: Any, resp: Any, number: int) -> None:
        resp.media = self.ends.get(number, [])

    async def _write(self, number: int, waits: bool) -> None:
        try:
            if waits:
                end = await self._wait(number)
            elif number % 2:
                end = await self._write_again(number)
            else:
                end = await self._write_from_position(number)
        except Exception as ex:
            end = type(ex).__name__
        self.ends.setdefault(number, []).append(end)

    async def _wait(self, number: int) -> str:
        async with channels.stream(f'answers:{number}') as stream:
            await stream.write('first')
            await asyncio.Event().wait()
        return f'aborted: {stream.aborted}'

    async def _write_from_position(self, number: int) -> str:
        text = ''.join(answer(number))
        async with channels.stream(f'answers:{number}') as stream:
            for start in range(stream.length, len(text), 40):
                await stream.write(text[start : start + 40])
                await asyncio.sleep(PAUSE_S)
        return 'finished'

    async def _write_again(self, number: int) -> str:
        options = StreamWriterOptions(replay=True)
        async with channels.stream(f'answers:{number}', options) as stream:
            for chunk in answer(number):
                await stream.write(chunk)
                await asyncio.sleep(PAUSE_S)
        return 'finished'


app = falcon.asgi.App(middleware=[channels])
app.add_route('/worker', Worker())
answers = Answer()
app.add_route('/answers/{number:int}', answers)
app.add_route('/answers/{number:int}/ends', answers, suffix='ends')
