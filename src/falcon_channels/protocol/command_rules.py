"""Which command is legal when: one table.

A connection of the protocol is in one of the states of `State`; what it may send is
a row of `TABLE`. The rules behind the rows:

* nothing but ``connect`` comes first, and it comes once;
* the commands behind a ``connect`` in one frame wait until it is answered: whoever
  feeds commands one by one never meets the state between;
* where the server refused ``connect`` with an error, the rest of what the client has
  already sent is dropped without a word: it cannot know yet;
* a pong is legal only while a ping waits for it, else a client could hold a
  connection open, or keep the server busy, with empty commands;
* a unidirectional client is not listened to: it has said all with its one message.
"""

from __future__ import annotations

from enum import Enum
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


class State(Enum):
    """Where a connection of the protocol is."""

    #: Before a successful connect.
    NEW = 'new'
    #: Connected; no ping is on its way.
    CONNECTED = 'connected'
    #: Connected; the server has sent a ping and wants a pong.
    PINGED = 'pinged'
    #: Connect was answered with an error: nothing more is read.
    REFUSED = 'refused'
    #: Connected in one direction only.
    UNIDIRECTIONAL = 'unidirectional'
    #: Over, or closing.
    CLOSED = 'closed'


class Verdict(Enum):
    """What to do with a command."""

    #: Carry it out.
    ACCEPT = 'accept'
    #: Drop it in silence.
    IGNORE = 'ignore'
    #: End the connection with 3501, bad request.
    DISCONNECT = 'disconnect'


#: The kind of a pong in `TABLE`.
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

#: All states and all kinds of commands.
TABLE: Final[dict[tuple[State, str], Verdict]] = {
    **{(State.NEW, kind): Verdict.DISCONNECT for kind in _KINDS},
    (State.NEW, ConnectRequest.field): Verdict.ACCEPT,
    **{(State.CONNECTED, kind): Verdict.ACCEPT for kind in _AFTER_CONNECT},
    (State.CONNECTED, ConnectRequest.field): Verdict.DISCONNECT,
    (State.CONNECTED, PONG): Verdict.DISCONNECT,
    **{(State.PINGED, kind): Verdict.ACCEPT for kind in _AFTER_CONNECT},
    (State.PINGED, ConnectRequest.field): Verdict.DISCONNECT,
    (State.PINGED, PONG): Verdict.ACCEPT,
    **{(State.REFUSED, kind): Verdict.IGNORE for kind in _KINDS},
    **{(State.UNIDIRECTIONAL, kind): Verdict.IGNORE for kind in _KINDS},
    **{(State.CLOSED, kind): Verdict.IGNORE for kind in _KINDS},
}


def judge(state: State, command: Command) -> Verdict:
    """Return what to do with `command` in `state`."""
    request = command.request
    return TABLE[state, PONG if request is None else request.field]
