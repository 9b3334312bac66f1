"""The table of what is legal when."""

from __future__ import annotations

from typing import get_args

import pytest

from falcon_channels.protocol.command_rules import judge
from falcon_channels.protocol.command_rules import PONG
from falcon_channels.protocol.command_rules import State
from falcon_channels.protocol.command_rules import TABLE
from falcon_channels.protocol.command_rules import Verdict
from falcon_channels.protocol.messages import Command
from falcon_channels.protocol.messages import ConnectRequest
from falcon_channels.protocol.messages import Request

REQUESTS = get_args(Request)
COMMANDS = [Command(0, None), *(Command(1, request()) for request in REQUESTS)]


def kind(command: Command) -> str:
    return command.request.field if command.request else PONG


def test_table_is_complete() -> None:
    """Every command has a verdict in every state, and there is nothing else."""
    kinds = {kind(command) for command in COMMANDS}
    assert 13 == len(kinds)
    assert {(state, name) for state in State for name in kinds} == TABLE.keys()


@pytest.mark.parametrize('command', COMMANDS, ids=kind)
def test_connect_comes_first(command: Command) -> None:
    """Before a connect nothing else is legal."""
    first = isinstance(command.request, ConnectRequest)
    expected = Verdict.ACCEPT if first else Verdict.DISCONNECT
    assert expected is judge(State.NEW, command)


@pytest.mark.parametrize('state', [State.CONNECTED, State.PINGED])
@pytest.mark.parametrize('command', COMMANDS[1:], ids=kind)
def test_connect_comes_once(state: State, command: Command) -> None:
    """After a connect everything else is legal, and another connect is not."""
    again = isinstance(command.request, ConnectRequest)
    expected = Verdict.DISCONNECT if again else Verdict.ACCEPT
    assert expected is judge(state, command)


def test_a_pong_answers_a_ping() -> None:
    """A pong is legal only while a ping waits for it."""
    assert Verdict.DISCONNECT is judge(State.NEW, Command(0, None))
    assert Verdict.DISCONNECT is judge(State.CONNECTED, Command(0, None))
    assert Verdict.ACCEPT is judge(State.PINGED, Command(0, None))


@pytest.mark.parametrize('state', [State.REFUSED, State.UNIDIRECTIONAL, State.CLOSED])
@pytest.mark.parametrize('command', COMMANDS, ids=kind)
def test_nothing_is_heard_afterwards(state: State, command: Command) -> None:
    """A refused, one-way or closed connection is not listened to."""
    assert Verdict.IGNORE is judge(state, command)
