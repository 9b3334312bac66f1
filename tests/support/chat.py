"""Members who use the chat over simulated HTTP requests, without a server."""

from __future__ import annotations

from typing import Any

import falcon.testing

from falcon_channels_chat.settings import Settings

SITE = 'http://falconframework.org'
MESSAGES = '/api/rooms/lobby/messages'

Result = falcon.testing.Result


class Person:
    """A person with a browser: sends a cookie and an Origin header."""

    def __init__(self, conductor: falcon.testing.ASGIConductor) -> None:
        self._conductor = conductor
        #: Address of the client; ``None`` if the server does not know it.
        self.address: str | None = None
        self.cookie: str | None = None
        self.id = ''

    async def request(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        headers: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> Result:
        """Send a request like the page; `headers` replace the default headers.

        A header with an empty value is not sent.
        """
        all_headers = {'Origin': SITE}
        if self.cookie is not None:
            all_headers['Cookie'] = f'chat_session={self.cookie}'
        all_headers.update(headers or {})
        sent = {name: value for name, value in all_headers.items() if value}
        return await self._conductor.simulate_request(
            method, path, json=json, headers=sent, remote_addr=self.address, **kwargs
        )

    async def pick_name(self, name: str) -> Result:
        """Create a session with a name."""
        result = await self.request('POST', '/api/session', {'name': name})
        if result.status_code == 201:
            self.cookie = result.cookies['chat_session'].value
            self.id = result.json['id']
        return result

    async def say(self, text: str, **more: Any) -> Result:
        """Send a message to the lobby."""
        return await self.request('POST', MESSAGES, {'text': text, **more})


class Chat:
    """A chat with an empty lobby."""

    def __init__(
        self, conductor: falcon.testing.ASGIConductor, settings: Settings
    ) -> None:
        self.conductor = conductor
        self.database = settings.database

    def stranger(self) -> Person:
        """Return a person without a session."""
        return Person(self.conductor)

    async def person(self, name: str) -> Person:
        """Return a person with a session."""
        person = self.stranger()
        assert 201 == (await person.pick_name(name)).status_code
        return person
