"""Decode control messages, and apply them to connections or to this node.

A command about a user is applied to the user's connections when it arrives. Some
connections cannot be found at that time: a responder still identifies the user, or a
plain WebSocket is not accepted yet. Such a connection is *followed*: commands that
arrive in the meantime are stored. They are applied as soon as the connection can be
found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Collection
import logging
from typing import NamedTuple

from falcon_channels.cluster.messages import decode_control
from falcon_channels.cluster.messages import DisconnectUser
from falcon_channels.cluster.messages import NodeMessage
from falcon_channels.cluster.messages import RefreshUser
from falcon_channels.cluster.messages import SubscribeUser
from falcon_channels.cluster.messages import UNDECODABLE
from falcon_channels.cluster.messages import UserCommand
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.hub import Hub
from falcon_channels.parts import in_parts
from falcon_channels.protocol.codes import DISCONNECT_INTERNAL

_logger = logging.getLogger('falcon_channels')

#: Number of connections of a user that are closed without a pause.
_DISCONNECTED_PART = 100


#: Maximum number of commands that are stored for followed connections.
MAX_STORED = 50_000


class _Arrived(NamedTuple):
    """A command, and the followed connections of its user when it arrived."""

    command: UserCommand
    found: Collection[Connection]


class ControlDispatcher:
    """Decodes control messages and applies them to the connections of this process.

    Args:
        hub: The hub of this process.
        on_node_message: Called with each message between nodes.
        on_subscribe_user: Called with each connection to subscribe, and the message.
        on_unsubscribe_user: Called with each connection whose subscriptions to a
            channel end, and the channel; ``''`` for all channels.
    """

    def __init__(
        self,
        hub: Hub,
        on_node_message: Callable[[NodeMessage], None],
        on_subscribe_user: Callable[[Connection, SubscribeUser], None],
        on_unsubscribe_user: Callable[[Connection, str], None],
    ) -> None:
        self._hub = hub
        self._on_node_message = on_node_message
        self._on_subscribe_user = on_subscribe_user
        self._on_unsubscribe_user = on_unsubscribe_user
        #: Followed connections. The value is the number of the first command that the
        #: connection may have missed. The oldest connection is first. It decides which
        #: commands are still needed.
        self._followed: dict[Connection, int] = {}
        self._arrived: deque[_Arrived] = deque()
        #: Number of the first command in `_arrived`.
        self._first = 0

    def receive(self, message: bytes) -> None:
        """Decode a control message and apply it.

        A message that cannot be decoded is counted and logged.
        """
        try:
            control = decode_control(message)
        except UNDECODABLE as ex:
            self._hub.counters.control_errors += 1
            _logger.error('control message cannot be decoded: %s', ex)
            return
        if isinstance(control, NodeMessage):
            self._on_node_message(control)
            return
        found = self._hub.connections.of_user(control.user)
        if self._followed:
            self._store(control, found)
        if isinstance(control, DisconnectUser) and len(found) > _DISCONNECTED_PART:
            self._hub.tasks.spawn(
                self._apply_in_parts(found, control), 'disconnect user'
            )
            return
        # NOTE: the other commands are applied to all connections at once. Otherwise a
        #   later command or publication could overtake a command. After `revoke_user`,
        #   for example, the user must not receive later publications.
        for connection in found:
            self._apply(connection, control)

    def _store(self, command: UserCommand, found: Collection[Connection]) -> None:
        """Store a command until the followed connections have caught up.

        NOTE: a responder may wait for a long time, or for ever. Its process must not
          keep all commands and all closed connections in memory meanwhile.
        """
        followed = self._followed
        self._arrived.append(
            _Arrived(command, [item for item in found if item in followed])
        )
        if len(self._arrived) > MAX_STORED:
            oldest = next(iter(followed))
            _logger.warning(
                '%r is closed: %d commands about users have arrived while a responder '
                'worked for it. Its client connects again',
                oldest,
                MAX_STORED,
            )
            self.unfollow(oldest)
            oldest.disconnect(*DISCONNECT_INTERNAL)

    async def _apply_in_parts(
        self, connections: list[Connection], command: UserCommand
    ) -> None:
        """Apply a command to the connections of a user, who may be anonymous."""
        async for part in in_parts(connections, _DISCONNECTED_PART):
            for connection in part:
                if not connection.closed and connection.user == command.user:
                    self._apply(connection, command)

    def follow(self, connection: Connection) -> None:
        """Store commands for a connection that commands may not find.

        The caller calls `catch_up` or `unfollow` later.
        """
        self._followed[connection] = self._first + len(self._arrived)

    def catch_up(self, connection: Connection) -> None:
        """Apply the commands that did not find a followed connection, and unfollow it.

        Call this when the hub has the connection and its user.
        """
        start = self._followed.get(connection)
        if start is None:
            return
        missed = [
            arrived.command
            for arrived in list(self._arrived)[start - self._first :]
            if arrived.command.user == connection.user
            and connection not in arrived.found
        ]
        self.unfollow(connection)
        for command in missed:
            self._apply(connection, command)

    def unfollow(self, connection: Connection) -> None:
        """Store no more commands for a connection; do nothing if it is not followed."""
        if self._followed.pop(connection, None) is None:
            return
        oldest = next(iter(self._followed.values()), self._first + len(self._arrived))
        while self._first < oldest:
            self._arrived.popleft()
            self._first += 1

    def _apply(self, connection: Connection, command: UserCommand) -> None:
        try:
            self._carry_out(connection, command)
        except Exception:
            # SECURITY: the command may take a right away. The client must not keep it,
            #   and the other connections of the user must get the command.
            self._hub.counters.task_errors += 1
            _logger.exception('a command about its user failed for %r', connection)
            connection.transport.abort()

    def _carry_out(self, connection: Connection, command: UserCommand) -> None:
        if command.client and command.client != connection.id:
            return
        if command.session and command.session != connection.session:
            return
        if isinstance(command, SubscribeUser):
            self._on_subscribe_user(connection, command)
            return
        if isinstance(command, DisconnectUser):
            if connection.id in command.exclude:
                return
            connection.note_command()
            connection.disconnect(command.code, command.reason)
        elif isinstance(command, RefreshUser):
            connection.note_command()
            connection.on_refresh(command.expired, command.expires_at, command.info)
        else:
            connection.note_command()
            self._on_unsubscribe_user(connection, command.channel)
            for subscription in list(connection.subscriptions.values()):
                if command.channel in ('', subscription.channel):
                    self._hub.unsubscribe(subscription, command.code, command.reason)
