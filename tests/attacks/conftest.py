"""The targets as fixtures, and a second client that an attack must not affect."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import threading
from types import TracebackType
from typing import Any
from typing import Self

from attacks.targets import ELSEWHERE
from attacks.targets import Target
from attacks.targets import TARGETS
import pytest
from support.processes import ServerProcess
from support.processes import wait_until
from support.rawsocket import handshake
from support.rawsocket import RawSocket


class Victim(ServerProcess):
    """The server of a target, and the first step of every attack on it."""

    def __init__(self, target: Target, command: Sequence[str]) -> None:
        super().__init__(command)
        self.path = target.path

    def connect(self, *, receive_buffer_bytes: int | None = None) -> RawSocket:
        return RawSocket(
            self.port, self.path, receive_buffer_bytes=receive_buffer_bytes
        )

    def handshake(self, add: Iterable[tuple[str, str]] = (), **changes: Any) -> bytes:
        path = changes.pop('path', self.path)
        return handshake(self.port, path, add=add, **changes)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Attack all targets, or only the one that ``--asgi-server`` names."""
    if 'target' not in metafunc.fixturenames:
        return
    targets = [*TARGETS, *ELSEWHERE]
    chosen = metafunc.config.getoption('--asgi-server')
    if chosen:
        targets = [target for target in targets if target.name == chosen]
    elif not metafunc.definition.get_closest_marker('every_server'):
        targets = [*TARGETS]
    params = [
        pytest.param(target, id=str(target), marks=pytest.mark.xdist_group(str(target)))
        for target in targets
    ]
    metafunc.parametrize('target', params, scope='session')


@pytest.fixture(scope='session')
def server(target: Target) -> Iterator[Victim]:
    """The target's server, shared by all tests that do not change it."""
    with Victim(target, target.command) as server:
        yield server


@pytest.fixture
def fresh_server(target: Target) -> Iterator[Victim]:
    """A new server, for tests that measure memory or leave connections behind."""
    with Victim(target, target.command) as server:
        yield server


@pytest.fixture
def quick_server(target: Target) -> Iterator[Victim]:
    """A new server with short timeouts for clients that do not read or answer."""
    with Victim(target, target.quick) as server:
        yield server


class Neighbour:
    """A client that sends messages all the time, in a thread, during an attack."""

    def __init__(self, server: Victim) -> None:
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name='neighbour')
        self.answers = 0
        self.failure: BaseException | None = None

    def _run(self) -> None:
        try:
            with self._server.connect() as sock:
                sock.open()
                while not self._stop.is_set():
                    text = f'message {self.answers}'
                    assert f'Message text was: {text}' == sock.echo(text)
                    self.answers += 1
                    self._stop.wait(0.01)
        except BaseException as ex:
            self.failure = ex

    def check_served(self) -> None:
        """Return when three more answers have come; fail if they are late."""
        before = self.answers
        wait_until(
            lambda: self.failure is not None or self.answers >= before + 3,
            'the neighbour gets answers',
        )
        assert self.failure is None

    def __enter__(self) -> Self:
        self._thread.start()
        self.check_served()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
