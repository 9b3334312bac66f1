"""Event streams whose subscriptions have a filter."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from endpoint.peer import serving_app
from endpoint.peer import TIMEOUT_S
import falcon.asgi
import httpx
import pytest
from support.asgi_servers import SERVE

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EventStreamOptions
from falcon_channels import filters

HISTORY_SIZE = 2


class News:
    """A short log; each reader receives the publications of one kind."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.channels = Channels()
        self.channels.add_route(
            'news:{topic}', self, ChannelOptions(history_size=HISTORY_SIZE)
        )

    async def on_subscribe(self, req: Any, subscription: Any, topic: str) -> None:
        subscription.filter = filters.eq('kind', 'mine')

    async def on_get(self, req: Any, resp: Any) -> None:
        options = EventStreamOptions(keepalive_s=0.1)
        await self.channels.serve_events(req, resp, self.names, options=options)

    def publish(self, kind: str) -> None:
        """Publish in all channels, from the thread of the test."""
        loop = self.channels.loop
        assert loop is not None
        for name in self.names:
            publish = self.channels.publish(name, kind, tags={'kind': kind})
            asyncio.run_coroutine_threadsafe(publish, loop).result(TIMEOUT_S)


def events(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Yield the fields of each event; a comment has the name ''."""
    event: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(':')
            event[name] = value.strip()
        else:
            yield event
            event = {}


@pytest.mark.parametrize('names', [['news:a'], ['news:a', 'news:b']])
def test_filtered_stream_that_returns_after_others_were_published_lost_nothing(
    names: list[str],
) -> None:
    """A keep-alive comment has the id of the newest publication that was filtered."""
    news = News(names)
    app = falcon.asgi.App(middleware=[news.channels])
    app.add_route('/', news)
    with serving_app(app, SERVE) as server:
        url = f'http://127.0.0.1:{server.port}/'
        with httpx.stream('GET', url, timeout=TIMEOUT_S) as response:
            stream = events(response.iter_lines())
            first = next(stream)
            news.publish('mine')
            received: list[dict[str, str]] = []
            while len(received) < len(names):
                event = next(stream)
                received += [event] if 'data' in event else []
            for _ in range(HISTORY_SIZE + 1):
                news.publish('other')
            newest: dict[str, str] = {}
            while f'{HISTORY_SIZE + 2}:' not in newest.get('id', ''):
                newest = next(stream)
                assert 'data' not in newest
            assert '' in newest
            if len(names) > 1:
                # NOTE: the comment may come between the publications of two channels.
                newest = next(event for event in stream if '' in event)
        headers = {'Last-Event-ID': newest['id']}
        with httpx.stream('GET', url, headers=headers, timeout=TIMEOUT_S) as response:
            stream = events(response.iter_lines())
            again = next(stream)
            assert first.keys() == again.keys()
            assert again['id'] == newest['id']
            news.publish('mine')
            event = next(event for event in stream if 'data' in event)
            assert event.get('event') != 'lost'
            assert event['data'] == 'mine'
