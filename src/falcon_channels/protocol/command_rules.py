"""Which command a client may send in which state: one table.

A connection is in one of the states of `ConnectionState`. Its row of `COMMAND_ACTIONS`
says what happens to each command. The rules behind the table:

* ``connect`` is the first command, and it is sent once.
* Commands after ``connect`` in the same frame wait until it is answered. Code that
  checks one command at a time never sees an unanswered ``connect``.
* After the server refused ``connect`` with an error, further commands are ignored. The
  client may have sent them before it received the error.
* A pong is allowed only while the server waits for one. Otherwise a client could keep a
  connection open, or keep the server busy, with empty commands.
* Commands of a unidirectional client are ignored after its first message.
"""

from __future__ import annotations

from enum import Enum
from enum import StrEnum
from typing import Final

from falcon_channels.protocol.messages import Command
from falcon_channels.protocol.messages import ConnectRequest
from falcon_channels.protocol.messages import HistoryRequest
from falcon_channels.protocol.messages import PingRequest
from falcon_channels.protocol.messages import PresenceRequest
from falcon_channels.protocol.messages import PresenceStatsRequest
from falcon_channels.protocol.messages import PublishRequest
from falcon_channels.protocol.messages import RefreshRequest
from falcon_channels.protocol.messages import RpcRequest
from falcon_channels.protocol.messages import SendRequest
from falcon_channels.protocol.messages import SubRefreshRequest
from falcon_channels.protocol.messages import SubscribeRequest
from falcon_channels.protocol.messages import UnsubscribeRequest


class ConnectionState(StrEnum):
    """State of a connection of the client protocol.

    PERF: text, because each command looks up the state in a dict, and `Enum` computes
    its hash in Python (benchmarks/centrifugo.py).
    """

    #: Before a successful ``connect``.
    NEW = 'new'
    #: Connected; the server waits for no pong.
    CONNECTED = 'connected'
    #: Connected; the server has sent a ping and waits for the pong.
    PINGED = 'pinged'
    #: ``connect`` was answered with an error; further commands are ignored.
    REFUSED = 'refused'
    #: Connected; the client only listens.
    UNIDIRECTIONAL = 'unidirectional'
    #: Closed or closing.
    CLOSED = 'closed'


class CommandAction(Enum):
    """Action of the server for a command."""

    #: Execute it.
    ACCEPT = 'accept'
    #: Drop it without an answer.
    IGNORE = 'ignore'
    #: Close the connection with 3501 (bad request).
    DISCONNECT = 'disconnect'


#: Name of a pong in `COMMAND_ACTIONS`.
PONG: Final = 'pong'

_AFTER_CONNECT: Final = tuple(
    kind.field
    for kind in (
        SubscribeRequest,
        UnsubscribeRequest,
        PublishRequest,
        PresenceRequest,
        PresenceStatsRequest,
        HistoryRequest,
        PingRequest,
        SendRequest,
        RpcRequest,
        RefreshRequest,
        SubRefreshRequest,
    )
)
_KINDS: Final = (ConnectRequest.field, *_AFTER_CONNECT, PONG)

#: Action for every state and every kind of command.
COMMAND_ACTIONS: Final[dict[tuple[ConnectionState, str], CommandAction]] = {
    **{(ConnectionState.NEW, kind): CommandAction.DISCONNECT for kind in _KINDS},
    (ConnectionState.NEW, ConnectRequest.field): CommandAction.ACCEPT,
    **{
        (ConnectionState.CONNECTED, kind): CommandAction.ACCEPT
        for kind in _AFTER_CONNECT
    },
    (ConnectionState.CONNECTED, ConnectRequest.field): CommandAction.DISCONNECT,
    (ConnectionState.CONNECTED, PONG): CommandAction.DISCONNECT,
    **{(ConnectionState.PINGED, kind): CommandAction.ACCEPT for kind in _AFTER_CONNECT},
    (ConnectionState.PINGED, ConnectRequest.field): CommandAction.DISCONNECT,
    (ConnectionState.PINGED, PONG): CommandAction.ACCEPT,
    **{(ConnectionState.REFUSED, kind): CommandAction.IGNORE for kind in _KINDS},
    **{(ConnectionState.UNIDIRECTIONAL, kind): CommandAction.IGNORE for kind in _KINDS},
    **{(ConnectionState.CLOSED, kind): CommandAction.IGNORE for kind in _KINDS},
}


def check_command(state: ConnectionState, command: Command) -> CommandAction:
    """Return what the server does with `command` in `state`."""
    request = command.request
    return COMMAND_ACTIONS[state, PONG if request is None else request.field]
