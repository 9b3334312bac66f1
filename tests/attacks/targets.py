"""What is attacked, and what is known to give way.

A target is one line of `TARGETS`. Every row of the suite has an expected outcome; where
a target answers otherwise today, `TODAY` says how, the tests assert exactly that, and
docs/security.md explains it to users. An entry that no longer holds fails its test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
import sys


@dataclass(frozen=True)
class Target:
    """A server with an app that answers texts.

    Attributes:
        name: Of the target, in `TODAY` and in the names of tests.
        command: Starts it on `{port}`.
        quick: The same server, set to give up soon on a client that does not
            read or answer.
        path: Of its WebSocket.
    """

    name: str
    command: Sequence[str]
    quick: Sequence[str]
    path: str = '/hello'

    def __str__(self) -> str:
        return self.name


_ASGI_APP = 'examples.hello_asgi:app'
_UVICORN = ('python', '-m', 'uvicorn', _ASGI_APP, '--port', '{port}')
_QUICK_ASGI = ('python', '-m', 'tests.attacks.quick_asgi', '{port}')
_COMMAND = str(Path(sys.executable).with_name('falcon-channels'))
_SERVE = (_COMMAND, 'serve', _ASGI_APP, '--port', '{port}')
_EXAMPLE = ('python', '-m', 'examples.hello_asgi', '--port', '{port}')
_IMPATIENT = ('--ws-ping-interval', '1', '--ws-ping-timeout', '1')

_GUNICORN = ('python', '-m', 'gunicorn', '--no-control-socket', '--pythonpath', 'tests')
_GEVENT = (*_GUNICORN, '--bind', '127.0.0.1:{port}', '--worker-class', 'gevent')
_THREADS = ('--worker-class', 'gthread', '--threads', '128')
_GTHREAD = (*_GUNICORN, '--bind', '127.0.0.1:{port}', *_THREADS)
_WSGI_APP = 'examples.hello_wsgi:app'
_QUICK_WSGI_APP = 'attacks.quick_wsgi:app'

TARGETS = (
    Target('uvicorn', _UVICORN, (*_UVICORN, *_IMPATIENT)),
    Target('serve', _SERVE, _QUICK_ASGI),
    Target('example', _EXAMPLE, _QUICK_ASGI),
    Target('gevent', (*_GEVENT, _WSGI_APP), (*_GEVENT, _QUICK_WSGI_APP), '/'),
    Target('gthread', (*_GTHREAD, _WSGI_APP), (*_GTHREAD, _QUICK_WSGI_APP), '/'),
)

_UV = ('uvicorn',)
_WSGI = ('gevent', 'gthread')

# Row -> targets -> the outcomes that are seen today instead of the expected ones.
TODAY: dict[str, dict[tuple[str, ...], set[str]]] = {
    'H2': {_UV: {'403'}},
    'H3': {_UV: {'none'}},
    'H4 length': {_UV: {'silence'}},
    'H4 chunked': {_UV: {'silence'}},
    'H6 HTTP/1.0': {_UV: {'101'}},
    'H9 line of 9 KB': {_UV: {'silence'}},
    'H9 line of 1 MB': {_UV: {'silence'}},
    'H9 130 lines': {_UV: {'silence'}},
    'H9 5000 lines': {_UV: {'silence'}},
    'H9 flood': {_UV: {'grows'}},
    'H10': {('uvicorn', 'gthread'): {'silence'}},
    'H11 token': {_UV: {'shown'}},
    'H12 2000 extensions': {_UV: {'silence'}},
    'H13': {_UV: {'lost'}},
    'H16': {_UV: {'403'}},
    'F4 log': {_UV: {'traceback'}},
    'F5 not minimal': {(*_UV, *_WSGI): {'answered'}},
    'F7': {_UV: {'answered'}},
    'F8 memory': {_UV: {'grows'}},
    'F9': {_UV: {'grows'}},
    'F11': {_UV: {'stays'}},
    # The C library keeps what a thread has freed in an arena of that thread, or not.
    'F14': {('gthread',): {'stays', 'gone'}},
}


def expected(row: str, target: Target, *outcomes: str) -> set[str]:
    """Return the outcomes that a row of the suite may have with a target."""
    for names, today in TODAY.get(row, {}).items():
        if target.name in names:
            return today
    return set(outcomes)
