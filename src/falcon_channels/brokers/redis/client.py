"""Calls to the servers: each goes to where its key lives, and raises our own errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError
from redis.exceptions import NoScriptError
from redis.exceptions import RedisError
from redis.exceptions import ResponseError

from falcon_channels.brokers.redis.command_connection import CommandLink
from falcon_channels.brokers.redis.command_connection import Word
from falcon_channels.brokers.redis.connections import Address
from falcon_channels.brokers.redis.connections import find_topology
from falcon_channels.brokers.redis.connections import Server
from falcon_channels.brokers.redis.connections import Topology
from falcon_channels.brokers.redis.scripts import Script
from falcon_channels.errors import BrokerUnavailableError


class Store:
    """The servers behind one URL.

    Args:
        server: How to connect.
        timeout_s: Deadline of a command.
        on_moved: Called when something was not where it was believed to be.
    """

    def __init__(
        self, server: Server, timeout_s: float, on_moved: Callable[[], None]
    ) -> None:
        self._on_moved = on_moved
        self.topology = Topology(frozenset(), ())
        self._server = server
        self._timeout_s = timeout_s
        self._links: dict[Address, CommandLink] = {}
        self._closed = False

    async def find(self) -> None:
        """Find out where everything is.

        Raises:
            BrokerUnavailableError: No server answers.
        """
        found = await find_topology(self._server, self.topology.addresses)
        if self._closed:
            raise BrokerUnavailableError('the broker is closed')
        self.topology = found
        gone = set(self._links) - found.addresses
        for address in found.addresses - set(self._links):
            self._links[address] = CommandLink(self._server, address, self._timeout_s)
        for address in gone:
            await self._links.pop(address).close()

    async def close(self) -> None:
        """Let go of all connections."""
        self._closed = True
        await asyncio.gather(*(link.close() for link in self._links.values()))

    def link(self, address: Address) -> CommandLink:
        """Return the connection for commands to a server."""
        return self._links[address]

    async def call(self, key: str | bytes, *words: Word) -> Any:
        """Send a command to where a key or a name lives.

        Raises:
            BrokerUnavailableError: No answer, or one that is an error.
        """
        return await self._again_where_it_is(
            lambda: self._link_of(key).call(*words),
        )

    async def run(self, script: Script, keys: list[str], *words: Word) -> Any:
        """Run a script where its keys live.

        Raises:
            BrokerUnavailableError: No answer, or one that is an error.
        """
        arguments = (len(keys), *keys, *words)
        return await self._again_where_it_is(
            lambda: self._run(script, keys[0], arguments)
        )

    async def _again_where_it_is(self, call: Callable[[], Awaitable[Any]]) -> Any:
        try:
            try:
                return await call()
            except MovedError:
                # NOTE: it was not executed.
                self._on_moved()
                await self.find()
                return await call()
        except ResponseError as ex:
            raise _unavailable(ex) from None

    async def _run(self, script: Script, key: str, words: tuple[Word, ...]) -> Any:
        link = self._link_of(key)
        try:
            return await link.call('EVALSHA', script.sha, *words)
        except NoScriptError:
            # NOTE: it was not executed; the server remembers it from now on.
            return await link.call('EVAL', script.text, *words)

    def _link_of(self, key: str | bytes) -> CommandLink:
        if not self._links or self._closed:
            raise BrokerUnavailableError('the Redis broker is not open')
        return self._links[self.topology.address_of(key)]


def _unavailable(error: RedisError | RedisConnectionError) -> BrokerUnavailableError:
    return BrokerUnavailableError(f'Redis refused: {error}')
