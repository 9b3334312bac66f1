"""Fixtures: the servers of the matrix, and an app at one end of a socket pair."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import socket
import threading

import pytest
from support.wsgi import CASES
from support.wsgi import DEADLINE_S
from support.wsgi import RawClient
from support.wsgi import RunningServer

from falcon_channels.wsgi import App
from falcon_channels.wsgi.testing import serve_connection


@pytest.fixture(
    scope='module',
    params=[
        # NOTE: One xdist worker runs all tests of a server, so it starts only once.
        pytest.param(case, id=case.name, marks=pytest.mark.xdist_group(case.name))
        for case in CASES
    ],
)
def server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A server of the matrix."""
    running = RunningServer(request.param)
    yield running
    running.stop()


@pytest.fixture
def dial() -> Iterator[Callable[[App], RawClient]]:
    """Return a function that serves an app at one end of a socket pair."""
    with contextlib.ExitStack() as stack:

        def connect(app: App) -> RawClient:
            ours, theirs = socket.socketpair()
            responder = threading.Thread(target=serve_connection, args=(app, theirs))
            responder.start()
            # Last in, first out: the client leaves, then the responder ends.
            stack.callback(responder.join, DEADLINE_S)
            return stack.enter_context(RawClient(ours))

        yield connect
