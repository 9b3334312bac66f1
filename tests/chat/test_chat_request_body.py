"""Bodies of requests to the chat: limits of size and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import falcon
import pytest

from falcon_channels_chat import request_body


class Upload:
    """A request whose body arrives in parts; `None` never arrives."""

    def __init__(self, *parts: bytes | None, length: int | None = None) -> None:
        self._parts = parts
        self.content_length = length

    @property
    def stream(self) -> AsyncIterator[bytes]:
        """The parts of the body."""
        return self._read()

    async def _read(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            if part is None:
                await asyncio.Event().wait()
            else:
                yield part


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, 'TIMEOUT_S', 0.05)


async def read(upload: Any, limit_bytes: int = 100_000) -> bytes:
    """Read the body of an upload."""
    return await request_body.read_body(upload, limit_bytes)


@pytest.mark.usefixtures('impatient')
@pytest.mark.parametrize('parts', [[None], [bytes(20_000), None], [b'x', b'y', None]])
async def test_upload_that_stops_is_refused_with_408(parts: list[Any]) -> None:
    """If a client stops within a body, the body does not stay in memory."""
    with pytest.raises(falcon.HTTPError) as caught:
        await read(Upload(*parts, length=50_000))
    assert 408 == caught.value.status_code


async def test_upload_cut_by_its_client_is_refused() -> None:
    """A body that is shorter than its Content-Length is refused."""
    with pytest.raises(falcon.HTTPBadRequest):
        await read(Upload(b'abc', length=4))
    assert b'abcd' == await read(Upload(b'ab', b'cd', length=4))
