"""Two linked nodes, each with an app that has the inspector, and requests to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
import json
from typing import Any

from falcon import testing
import falcon.asgi
from support.linked_broker import LinkedBroker
from support.linked_broker import start_node

from falcon_channels import ChannelOptions
from falcon_channels import Channels

KEY = 'a-key-for-reading'
WRITE_KEY = 'a-key-for-writing'
HEADERS = {'Content-Type': 'application/json'}


class Doorman:
    """Refuses everybody."""

    async def on_subscribe(self, req: Any, subscription: Any, name: str) -> None:
        raise falcon.HTTPForbidden(description='not for you')


class Clients:
    """Connection resource: the client chooses its user id."""

    async def on_connect(self, req: Any, connection: Any) -> None:
        connection.user = connection.data


class Inspected:
    """A node, and an app with the inspector.

    Args:
        channels: The node.
        conductor: Sends requests to the app.
    """

    def __init__(
        self, channels: Channels, conductor: testing.ASGIConductor, token: str = ''
    ) -> None:
        self.channels = channels
        self.conductor = conductor
        self.token = token

    async def post(
        self, method: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> testing.Result:
        """Send a request, with the cookie of the last login."""
        cookie = {'Cookie': f'falcon_channels_inspector={self.token}'}
        text = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        return await self.conductor.simulate_post(
            f'/_channels/api/{method}',
            body=text,
            headers={**HEADERS, **(cookie if self.token else {}), **(headers or {})},
        )

    async def login(self, key: str) -> testing.Result:
        """Log in, and store the cookie if the key was accepted."""
        result = await self.post('login', {'key': key})
        if result.status_code == 200:
            self.token = result.cookies['falcon_channels_inspector'].value
        return result

    async def ask(self, method: str, **fields: Any) -> Any:
        """Return the result of a method."""
        result = await self.post(method, fields)
        assert 200 == result.status_code, result.text
        assert 'result' in result.json, result.text
        return result.json['result']

    async def refused(self, method: str, **fields: Any) -> int:
        """Return the code of the error with which a method answers."""
        result = await self.post(method, fields)
        assert 200 == result.status_code, result.text
        code = result.json['error']['code']
        assert isinstance(code, int)
        return code


@asynccontextmanager
async def two_inspected(key: str = KEY) -> AsyncIterator[tuple[Inspected, Inspected]]:
    """Two linked nodes with the inspector; a person is logged in on the first."""
    link: list[LinkedBroker] = []
    found: list[Inspected] = []
    for _ in range(2):
        channels, _ = await start_node(link)
        channels.add_route('closed:{name}', Doorman())
        channels.add_route(
            'states:{name}',
            None,
            ChannelOptions(
                subscribers='anybody', slow_reader='latest', max_backlog_bytes=70_000
            ),
        )
        app = falcon.asgi.App()
        channels.add_inspector(app, keys=[KEY], write_keys=[WRITE_KEY])
        channels.add_endpoints(app)
        found.append(Inspected(channels, testing.ASGIConductor(app)))
    one, two = found
    async with one.conductor, two.conductor:
        await one.login(key)
        yield one, two
    await one.channels.close()
    await two.channels.close()
