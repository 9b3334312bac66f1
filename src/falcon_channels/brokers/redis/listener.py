"""The pub/sub connection to one server, on which announcements arrive.

redis-py's own pub/sub object reconnects without a report, and messages that were
published meanwhile are lost. This module therefore reads the connection itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

from redis.exceptions import RedisError

from falcon_channels.brokers.redis.command_connection import CommandConnection
from falcon_channels.brokers.redis.connections import Address
from falcon_channels.brokers.redis.connections import LINK_ERRORS
from falcon_channels.brokers.redis.connections import RedisConnector
from falcon_channels.brokers.redis.replies import pack
from falcon_channels.brokers.redis.resp_connection import RespConnection
from falcon_channels.brokers.server_link import describe
from falcon_channels.brokers.server_link import ServerLink
from falcon_channels.errors import BrokerUnavailableError

#: Maximum number of names in one command.
_BATCH = 500


class PubSubListener(ServerLink[RespConnection]):
    """The pub/sub connection to one server.

    Args:
        connector: Opens connections to the servers.
        commands: A connection for commands to the same server, for probes.
        subscribe: ``SUBSCRIBE`` or ``SSUBSCRIBE``.
        unsubscribe: ``UNSUBSCRIBE`` or ``SUNSUBSCRIBE``.
        probe: Pub/sub name of the probes, always subscribed with ``SUBSCRIBE``.
        probe_s: Seconds between two probes.
        timeout_s: Deadline of an answer, in seconds.
        on_message: Called with the name and the data of each message.
        on_change: Called when `up` has changed.
        on_moved: Called when a name has moved to another server of the Cluster.
    """

    errors = (*LINK_ERRORS, BrokerUnavailableError)

    def __init__(
        self,
        connector: RedisConnector,
        commands: CommandConnection,
        subscribe: str,
        unsubscribe: str,
        probe: bytes,
        *,
        probe_s: float,
        timeout_s: float,
        on_message: Callable[[bytes, bytes], None],
        on_change: Callable[[], None],
        on_moved: Callable[[], None],
    ) -> None:
        #: The subscribed names; subscribed again when the link is restored.
        self._names: set[bytes] = set()
        self._connector = connector
        self._commands = commands
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._probe_name = probe
        self._on_message = on_message
        self._on_change = on_change
        self._on_moved = on_moved
        self._connection: RespConnection | None = None
        self._confirming: dict[bytes, asyncio.Future[None]] = {}
        #: Number of unsubscribes that the server has not confirmed, by name.
        self._unsubscribing: dict[bytes, int] = {}
        super().__init__(
            'redis', f'Redis at {self.address}', probe_s=probe_s, timeout_s=timeout_s
        )

    @property
    def address(self) -> Address:
        """Address of the server."""
        return self._commands.address

    async def subscribe(self, name: bytes) -> None:
        """Subscribe to a name and wait until the server has confirmed it.

        Raises:
            BrokerUnavailableError: The link is lost, or the server did not answer. The
                name is not subscribed.
        """
        if not self.up:
            raise self.lost_error()
        self._names.add(name)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send_names([name])
        except TimeoutError:
            self.unsubscribe(name)
            raise BrokerUnavailableError(
                f'Redis at {self.address} did not confirm a subscription within '
                f'{self._timeout_s} s'
            ) from None
        except BaseException:
            self.unsubscribe(name)
            raise

    def lost_error(self) -> BrokerUnavailableError:
        """Return the error of a call that needs the link while it is lost."""
        return BrokerUnavailableError(
            f'the link to Redis at {self.address} is lost: {self.reason}'
        )

    def add_names(self, names: Iterable[bytes]) -> None:
        """Add names that are subscribed when the connection is opened."""
        self._names.update(names)

    def unsubscribe(self, name: bytes) -> None:
        """Unsubscribe from a name; also possible while the link is lost.

        It does not wait for the server. The server reads the command later than a
        ``SUBSCRIBE`` that it has not confirmed yet.
        """
        self._names.discard(name)
        # NOTE: `_on_answer` ignores this confirmation from now on. Without this step,
        #   `begin` would wait for it, and the link would be lost again.
        future = self._confirming.get(name)
        if future is not None and not future.done():
            future.set_result(None)
        if self._connection is not None:
            self._unsubscribing[name] = self._unsubscribing.get(name, 0) + 1
            self._connection.write(pack((self._unsubscribe, name)))

    # --- called by ServerLink ---------------------------------------------------------

    async def open_connection(self) -> RespConnection:
        """Open a connection."""
        self._connection = RespConnection(await self._connector.connect(self.address))
        return self._connection

    async def begin(self, connection: RespConnection) -> None:
        """Subscribe to all names, then send a probe."""
        async with asyncio.timeout(self._timeout_s + len(self._names) / 5000):
            connection.write(pack(('SUBSCRIBE', self._probe_name)))
            await self._send_names(list(self._names))
            await self.probe()

    async def read(self, connection: RespConnection) -> None:
        """Pass on messages, and handle confirmations, until the connection ends."""
        connection.pass_answers(self._on_answer)
        await connection.wait_until_ended()

    async def send_probe(self, number: int) -> None:
        """Publish the number of a probe."""
        await self._commands.call('PUBLISH', self._probe_name, number)

    async def close_connection(self, connection: RespConnection) -> None:
        """Close a connection; calls that wait for its confirmation fail."""
        self._connection = None
        self._unsubscribing.clear()
        for future in self._confirming.values():
            if not future.done():
                future.set_exception(
                    BrokerUnavailableError(f'the link to Redis is lost: {self.reason}')
                )
                # NOTE: keeps asyncio from logging the error if its caller has stopped
                #   waiting.
                future.exception()
        await connection.close()

    async def on_up(self) -> None:
        """Called when announcements arrive."""
        self._on_change()

    def on_down(self) -> None:
        """Called when announcements no longer arrive."""
        self._on_change()

    # --- internals --------------------------------------------------------------------

    def _on_answer(self, answer: Any) -> None:
        """Called with each message, confirmation or error."""
        if isinstance(answer, RedisError):
            raise EOFError(describe(answer))
        kind = answer[0]
        if kind in (b'message', b'smessage'):
            if answer[1] == self._probe_name:
                self.on_probe(int(answer[2]))
            else:
                self._on_message(answer[1], answer[2])
        elif kind in (b'subscribe', b'ssubscribe'):
            future = self._confirming.get(answer[1])
            # NOTE: this confirmation may belong to a `SUBSCRIBE` before an unsubscribe.
            #   The next `SUBSCRIBE` gets a confirmation of its own.
            followed = answer[1] in self._unsubscribing
            if future is not None and not future.done() and not followed:
                future.set_result(None)
        elif kind in (b'unsubscribe', b'sunsubscribe') and (
            answer[1] in self._unsubscribing
        ):
            # NOTE: this process sent the unsubscribe, and may be subscribed again.
            self._unsubscribing[answer[1]] -= 1
            if not self._unsubscribing[answer[1]]:
                del self._unsubscribing[answer[1]]
        elif kind == b'sunsubscribe' and answer[1] in self._names:
            self._on_moved()
            raise EOFError('the slot of a channel has moved to another server')

    async def _send_names(self, names: list[bytes]) -> None:
        """Subscribe to names and wait until the server has confirmed all of them."""
        connection = self._connection
        if connection is None:
            raise BrokerUnavailableError(f'the link to Redis is lost: {self.reason}')
        loop = asyncio.get_running_loop()
        futures = []
        for name in names:
            future = self._confirming.get(name)
            if future is None or future.done():
                future = self._confirming[name] = loop.create_future()
            futures.append(future)
        try:
            for batch in self._batches(names):
                connection.write(pack((self._subscribe, *batch)))
            for future in futures:
                await future
        except LINK_ERRORS as ex:
            raise BrokerUnavailableError(
                f'the link to Redis is lost: {describe(ex)}'
            ) from None
        finally:
            for name, future in zip(names, futures, strict=True):
                if self._confirming.get(name) is future:
                    del self._confirming[name]

    def _batches(self, names: list[bytes]) -> Iterable[list[bytes]]:
        if self._subscribe == 'SUBSCRIBE':
            for start in range(0, len(names), _BATCH):
                yield names[start : start + _BATCH]
        else:
            # NOTE: all names of one SSUBSCRIBE must be in the same slot.
            for name in names:
                yield [name]
