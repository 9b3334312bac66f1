"""Reads a stream of server-sent events as the HTML standard says."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from dataclasses import dataclass
from typing import Any
from typing import Self

import httpx


@dataclass
class Event:
    """An event that an EventSource would dispatch."""

    name: str
    data: str
    id: str


class EventReader:
    """A response with events; the last id and the last retry time are known."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.last_id = ''
        self.retry_ms = 0
        self.comments = 0
        self._chunks = response.iter_raw()
        self._rest = b''

    @classmethod
    @contextlib.contextmanager
    def open(cls, client: httpx.Client, path: str, **headers: str) -> Iterator[Self]:
        """Open a stream; ``last_event_id='7:x1'`` sets that header."""
        fields = {name.replace('_', '-'): value for name, value in headers.items()}
        fields = {'Accept': 'text/event-stream', **fields}
        with client.stream('GET', path, headers=fields) as response:
            assert 200 == response.status_code, response.read()
            yield cls(response)

    def block(self) -> list[str] | None:
        """Return the lines before the next empty line, or ``None`` at the end."""
        while b'\n\n' not in self._rest:
            try:
                self._rest += next(self._chunks)
            except (StopIteration, httpx.RemoteProtocolError):
                return None
        block, _, self._rest = self._rest.partition(b'\n\n')
        return block.decode().split('\n')

    def next(self) -> Event | None:
        """Return the next event, or ``None`` at the end of the stream."""
        while (lines := self.block()) is not None:
            name, data = 'message', []
            for line in lines:
                field, _, value = line.partition(':')
                value = value.removeprefix(' ')
                if field == 'event':
                    name = value
                elif field == 'data':
                    data.append(value)
                elif field == 'id':
                    self.last_id = value
                elif field == 'retry':
                    self.retry_ms = int(value)
                elif not field:
                    self.comments += 1
                else:
                    raise AssertionError(f'unknown field in {lines}')
            if data:
                return Event(name, '\n'.join(data), self.last_id)
        return None

    def event(self) -> Event:
        """Return the next event."""
        event = self.next()
        assert event is not None, 'the stream has ended'
        return event

    def data(self, count: int) -> list[str]:
        """Return the data of the next events."""
        return [self.event().data for _ in range(count)]

    def start(self) -> str:
        """Read the first block, which has no data; return its id."""
        lines = self.block()
        assert lines is not None
        fields: dict[str, Any] = dict(line.split(': ', 1) for line in lines)
        assert 'data' not in fields
        self.retry_ms = int(fields['retry'])
        self.last_id = fields.get('id', '')
        return self.last_id
