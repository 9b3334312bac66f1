"""Sends commands and scripts to the server that stores their keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
import logging
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError
from redis.exceptions import RedisError
from redis.exceptions import ResponseError

from falcon_channels.brokers.redis.command_connection import CommandConnection
from falcon_channels.brokers.redis.connections import Address
from falcon_channels.brokers.redis.connections import find_topology
from falcon_channels.brokers.redis.connections import RedisConnector
from falcon_channels.brokers.redis.connections import Topology
from falcon_channels.brokers.redis.replies import Argument
from falcon_channels.brokers.redis.scripts import Script
from falcon_channels.errors import BrokerUnavailableError

_logger = logging.getLogger('falcon_channels')


class Client:
    """A client of the servers behind one URL: one server, or all of a Cluster.

    Args:
        connector: Opens connections to the servers.
        timeout_s: Deadline of a command, in seconds.
        on_moved: Called when a key has moved to another server of the Cluster.

    Attributes:
        topology: The servers and their slots, as `find_servers` has found them last.
    """

    def __init__(
        self, connector: RedisConnector, timeout_s: float, on_moved: Callable[[], None]
    ) -> None:
        self._on_moved = on_moved
        self.topology = Topology(frozenset(), ())
        self._connector = connector
        self._timeout_s = timeout_s
        self._connections: dict[Address, CommandConnection] = {}
        #: Held by the one caller that reads the topology after a key has moved.
        self._following = asyncio.Lock()
        self._closed = False

    async def find_servers(self) -> None:
        """Read the topology, and keep a connection for commands to each server.

        Raises:
            BrokerUnavailableError: No server answers. The topology does not change.
        """
        found = await find_topology(self._connector, self.topology.addresses)
        if self._closed:
            raise BrokerUnavailableError('the broker is closed')
        self.topology = found
        removed = set(self._connections) - found.addresses
        for address in found.addresses - set(self._connections):
            self._connections[address] = CommandConnection(
                self._connector, address, self._timeout_s
            )
        for address in removed:
            await self._connections.pop(address).close()

    async def warn_about_eviction(self) -> None:
        """Log a warning for each server that may remove keys before they expire."""
        for address, connection in self._connections.items():
            try:
                answer: bytes = await connection.call('INFO', 'memory')
            except (BrokerUnavailableError, ResponseError) as ex:
                # NOTE: the Redis user may lack the permission. The broker works without
                #   it.
                _logger.debug('cannot read the policy of Redis at %s: %s', address, ex)
                continue
            policy = _field(answer, 'maxmemory_policy')
            if policy not in ('', 'noeviction'):
                _logger.warning(
                    'Redis at %s has the maxmemory-policy %r: if its memory is full, '
                    'it removes logs, revocations and presence before they expire; '
                    "set it to 'noeviction'",
                    address,
                    policy,
                )

    async def run_ids(self) -> frozenset[str]:
        """Return an id of the current run of each server.

        A restarted server, or a replica that has taken over, has another id. It may
        have lost data. If a server does not tell its id, the id is ``''``.

        Raises:
            BrokerUnavailableError: A server did not answer.
        """
        found = set()
        for connection in list(self._connections.values()):
            try:
                found.add(_field(await connection.call('INFO', 'server'), 'run_id'))
            except ResponseError:
                found.add('')
        return frozenset(found)

    async def run_id_of(self, key: str) -> str:
        """Return the id of the current run of the server of a key; see `run_ids`."""
        try:
            return _field(
                await self._connection_of(key).call('INFO', 'server'), 'run_id'
            )
        except ResponseError:
            return ''

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        await asyncio.gather(
            *(connection.close() for connection in self._connections.values())
        )

    def connection(self, address: Address) -> CommandConnection:
        """Return the connection for commands to a server."""
        return self._connections[address]

    async def call(self, key: str | bytes, *arguments: Argument) -> Any:
        """Send a command to the server of a key or a pub/sub name.

        Args:
            key: The key or name that decides the server.
            arguments: Name of the command and its arguments.

        Returns:
            The answer of the server.

        Raises:
            BrokerUnavailableError: The server did not answer, or answered with an
                error.
        """
        topology = self.topology
        try:
            return await self._connection_of(key).call(*arguments)
        except ResponseError as ex:
            await self._follow_or_raise(ex, topology)
        try:
            return await self._connection_of(key).call(*arguments)
        except ResponseError as ex:
            raise _unavailable(ex) from None

    async def run(self, script: Script, keys: list[str], *arguments: Argument) -> Any:
        """Run a script on the server of its keys.

        Args:
            script: The script.
            keys: Its ``KEYS``, all in the same slot of a Cluster.
            arguments: Its ``ARGV``.

        Returns:
            The result of the script.

        Raises:
            BrokerUnavailableError: The server did not answer, or answered with an
                error.
        """
        words = (len(keys), *keys, *arguments)
        topology = self.topology
        try:
            return await self._connection_of(keys[0]).run(script, words)
        except ResponseError as ex:
            await self._follow_or_raise(ex, topology)
        try:
            return await self._connection_of(keys[0]).run(script, words)
        except ResponseError as ex:
            raise _unavailable(ex) from None

    async def _follow_or_raise(self, error: ResponseError, used: Topology) -> None:
        """Read the topology if a key has moved, so that the caller can try again.

        NOTE: all pending commands for a slot that has moved are answered in this way.
        One of them reads the topology, and the others wait for it. Otherwise each of
        them would open a connection of its own.

        Args:
            error: Answer of the server.
            used: The topology with which the command was sent.

        Raises:
            BrokerUnavailableError: The server refused the command, or the topology
                could not be read.
        """
        if not isinstance(error, MovedError):
            raise _unavailable(error) from None
        # NOTE: the command was not executed. It is therefore safe to send it again.
        self._on_moved()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._following.acquire()
        except TimeoutError:
            raise BrokerUnavailableError(
                'a key has moved, and the slots of the Redis Cluster were not read '
                f'within {self._timeout_s} s'
            ) from None
        try:
            if self.topology is used:
                await self.find_servers()
        finally:
            self._following.release()

    def _connection_of(self, key: str | bytes) -> CommandConnection:
        if not self._connections or self._closed:
            raise BrokerUnavailableError('the Redis broker is not open')
        return self._connections[self.topology.address_of(key)]


def _field(info: bytes, field: str) -> str:
    """Return a field of an answer to ``INFO``; ``''`` if it is missing."""
    for line in info.decode(errors='replace').splitlines():
        name, _, value = line.partition(':')
        if name == field:
            return value
    return ''


def _unavailable(error: RedisError | RedisConnectionError) -> BrokerUnavailableError:
    return BrokerUnavailableError(f'Redis answered with an error: {error}')
