"""The table of what is legal when."""

from __future__ import annotations

from typing import get_args

import pytest

from falcon_channels.protocol.command_rules import check_command
from falcon_channels.protocol.command_rules import COMMAND_ACTIONS
from falcon_channels.protocol.command_rules import CommandAction
from falcon_channels.protocol.command_rules import ConnectionState
from falcon_channels.protocol.command_rules import PONG
from falcon_channels.protocol.messages import Command
from falcon_channels.protocol.messages import ConnectRequest
from falcon_channels.protocol.messages import Request

REQUESTS = get_args(Request)
COMMANDS = [Command(0, None), *(Command(1, request()) for request in REQUESTS)]


def kind(command: Command) -> str:
    return command.request.field if command.request else PONG


def test_command_actions_cover_every_state_and_command() -> None:
    """Every command has a verdict in every state, and there is nothing else."""
    kinds = {kind(command) for command in COMMANDS}
    assert 13 == len(kinds)
    assert {
        (state, name) for state in ConnectionState for name in kinds
    } == COMMAND_ACTIONS.keys()


@pytest.mark.parametrize('command', COMMANDS, ids=kind)
def test_command_before_connect_disconnects(command: Command) -> None:
    """Before a connect nothing else is legal."""
    first = isinstance(command.request, ConnectRequest)
    expected = CommandAction.ACCEPT if first else CommandAction.DISCONNECT
    assert expected is check_command(ConnectionState.NEW, command)


@pytest.mark.parametrize('state', [ConnectionState.CONNECTED, ConnectionState.PINGED])
@pytest.mark.parametrize('command', COMMANDS[1:], ids=kind)
def test_second_connect_disconnects(state: ConnectionState, command: Command) -> None:
    """After a connect everything else is legal, and another connect is not."""
    again = isinstance(command.request, ConnectRequest)
    expected = CommandAction.DISCONNECT if again else CommandAction.ACCEPT
    assert expected is check_command(state, command)


def test_pong_without_ping_disconnects() -> None:
    """A pong is legal only while a ping waits for it."""
    assert CommandAction.DISCONNECT is check_command(
        ConnectionState.NEW, Command(0, None)
    )
    assert CommandAction.DISCONNECT is check_command(
        ConnectionState.CONNECTED, Command(0, None)
    )
    assert CommandAction.ACCEPT is check_command(
        ConnectionState.PINGED, Command(0, None)
    )


@pytest.mark.parametrize(
    'state',
    [ConnectionState.REFUSED, ConnectionState.UNIDIRECTIONAL, ConnectionState.CLOSED],
)
@pytest.mark.parametrize('command', COMMANDS, ids=kind)
def test_command_in_a_final_state_is_ignored(
    state: ConnectionState, command: Command
) -> None:
    """A refused, one-way or closed connection is not listened to."""
    assert CommandAction.IGNORE is check_command(state, command)
