"""The attacked servers, and their known weaknesses.

A target is one line of `TARGETS`. Each row of the suite has an expected outcome. If a
target behaves differently, an entry of `WEAKNESSES` or `DIFFERS` describes its outcome.
The tests assert exactly that outcome, and docs/security.md describes it in the same
words. If an entry is no longer true, its test fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
import sys
from typing import NamedTuple

from support.asgi_servers import GRANIAN
from support.asgi_servers import HYPERCORN
from support.asgi_servers import UVICORN


@dataclass(frozen=True)
class Target:
    """A server with an app that answers texts.

    Attributes:
        name: Name in the entries and in test ids.
        command: Command that starts the server on `{port}`.
        quick: Command of the same server with short timeouts for clients that do not
            read or answer.
        path: Path of its WebSocket.
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

_GUNICORN = ('python', '-m', 'gunicorn', '--no-control-socket', '--pythonpath', 'tests')
_GEVENT = (*_GUNICORN, '--bind', '127.0.0.1:{port}', '--worker-class', 'gevent')
_THREADS = ('--worker-class', 'gthread', '--threads', '128')
_GTHREAD = (*_GUNICORN, '--bind', '127.0.0.1:{port}', *_THREADS)
_WSGI_APP = 'examples.hello_wsgi:app'
_QUICK_WSGI_APP = 'attacks.quick_wsgi:app'

# NOTE: Their access logs are off by default, and are attacked, too.
_HYPERCORN = HYPERCORN.command(_ASGI_APP, '--access-logfile', '-')
_GRANIAN = GRANIAN.command(_ASGI_APP, '--access-log')

TARGETS = (
    Target('uvicorn', _UVICORN, (*_UVICORN, *UVICORN.impatience)),
    Target('serve', _SERVE, _QUICK_ASGI),
    Target('example', _EXAMPLE, _QUICK_ASGI),
    Target('gevent', (*_GEVENT, _WSGI_APP), (*_GEVENT, _QUICK_WSGI_APP), '/'),
    Target('gthread', (*_GTHREAD, _WSGI_APP), (*_GTHREAD, _QUICK_WSGI_APP), '/'),
)

#: Targets of tests that are marked ``every_server``, and of all tests with
#: ``--asgi-server``.
ELSEWHERE = (
    Target('hypercorn', _HYPERCORN, (*_HYPERCORN, *HYPERCORN.impatience)),
    Target('granian', _GRANIAN, (*_GRANIAN, *GRANIAN.impatience)),
)


class Today(NamedTuple):
    """The outcome of a row that differs from the expected one.

    Attributes:
        row: Row of the suite.
        targets: Names of the targets.
        outcomes: Possible outcomes.
        instead: Description of the outcome, the same as in docs/security.md.
    """

    row: str
    targets: tuple[str, ...]
    outcomes: set[str]
    instead: str


_UV, _HY, _GR = 'uvicorn', 'hypercorn', 'granian'
_WSGI = ('gevent', 'gthread')

#: Attacks that succeed; docs/security.md also has the remedies.
WEAKNESSES = (
    Today(
        'H2',
        (_UV, _GR),
        {'403'},
        '403, from `OriginCheck`; an app without it accepts',
    ),
    Today(
        'H3 end',
        (_HY,),
        {'stays'},
        'the connection stays open, and its input is not read',
    ),
    Today(
        'H3 end',
        (_GR,),
        {'read, stays'},
        'the request behind it is answered; the connection ends after 30 s',
    ),
    Today(
        'H4 length',
        (_UV,),
        {'silence'},
        'no answer, and one such client keeps the server from stopping cleanly',
    ),
    Today('H4 chunked', (_UV,), {'silence'}, 'the same'),
    Today(
        'H8 h2c',
        (_HY,),
        {'101'},
        'HTTP/2 begins. If a proxy passes on this `Upgrade`, an attacker '
        'can send requests that it does not see, to blocked paths and with '
        'forged headers',
    ),
    *(
        Today(f'H9 {headers}', (_UV,), {'silence'}, 'no answer, as H4')
        for headers in ('line of 9 KB', 'line of 1 MB', '130 lines', '5000 lines')
    ),
    Today('H9 flood', (_UV,), {'grows'}, 'memory grows with what is sent'),
    Today('H10 half', (_UV, 'gthread'), {'silence'}, 'the connection stays open'),
    Today('H10 half', (_GR,), {'silence'}, 'the connection ends after 30 s'),
    Today('H10 none', (_UV, 'gthread', _GR), {'silence'}, 'the connection stays open'),
    Today(
        'H11 log',
        (_HY, _GR),
        {'forged'},
        'the access log, which is off by default, writes line breaks '
        'unescaped: an attacker can forge lines',
    ),
    Today(
        'H11 token',
        (_UV,),
        {'shown'},
        'the log shows the query string, also with `--no-access-log`',
    ),
    Today('H12 2000 extensions', (_UV,), {'silence'}, 'no answer, as H4'),
    Today('H12 log', (_HY,), {'traceback'}, 'a traceback for such a subprotocol'),
    Today('H13', (_UV,), {'lost'}, 'the frame is lost'),
    Today('F4 log', (_UV,), {'traceback'}, 'a traceback for every such text'),
    *(
        Today(
            f'F5 {length}',
            (_HY,),
            {'nothing, stays'},
            'the server waits for the announced length and buffers it without '
            'a limit, as in F6 memory',
        )
        for length in ('2^62', '64 MB')
    ),
    Today(
        'F6 fragments',
        (_HY,),
        {'1009, stays'},
        '1009 after 16 MiB, but the connection stays open and in its channels',
    ),
    Today('F6 fragments', (_GR,), {'nothing, stays'}, 'its limit is 64 MiB'),
    Today(
        'F6 memory',
        (_HY,),
        {'grows without end'},
        'all data after the 1009 is buffered: one client can fill the memory',
    ),
    Today('F6 memory', (_UV,), {'grows'}, 'its limit is 16 MiB'),
    Today(
        'F6 memory',
        (_GR,),
        {'grows'},
        'its limit is 64 MiB (16 MiB in a frame) for each connection',
    ),
    Today('F7', (_UV,), {'answered'}, 'accepted, and all other clients wait meanwhile'),
    Today('F7', (_HY, _GR), {'answered'}, 'accepted'),
    Today(
        'F8 memory',
        (_UV,),
        {'grows'},
        'its limit is 16 MiB: memory grows by twice as much',
    ),
    Today('F8 memory', (_HY,), {'grows'}, 'it is decompressed completely'),
    Today('F9', (_UV, _GR), {'grows'}, 'memory grows with what is sent'),
    Today('F11', (_UV, _HY, _GR), {'stays'}, 'the socket stays open'),
    # NOTE: The C library may store freed memory in an arena of the thread.
    Today(
        'F14',
        ('gthread',),
        {'stays', 'gone'},
        'the C library may not return the memory that threads have freed',
    ),
    Today(
        'F14',
        (_GR,),
        {'stays'},
        'each connection keeps twice its largest message until it ends',
    ),
)

#: Other answers that do no harm.
DIFFERS = (
    Today('H3 version', (_UV, _HY, _GR), {'none'}, '400, which does not name 13'),
    *(
        Today(f'H4 {body}', (_GR,), {'101'}, 'accepted; the body is ignored')
        for body in ('length', 'chunked')
    ),
    *(
        Today(
            f'H6 {keys}',
            (_HY, _GR),
            {'101'},
            'accepted: the key does not protect the server',
        )
        for keys in ('short', 'not-base64', 'twice')
    ),
    Today('H6 POST', (_GR,), {'101'}, 'accepted; no page can send it'),
    Today('H6 HTTP/1.0', (_UV,), {'101'}, 'accepted'),
    Today('H6 HTTP/1.0', (_GR,), {'403'}, '403'),
    Today('H9 line of 9 KB', (_HY, _GR), {'101'}, 'accepted: its limit is higher'),
    # NOTE: Hypercorn buffers 16 KiB of an incomplete request, and reads up to 64 KiB.
    Today('H9 130 lines', (_HY,), {'101'}, 'accepted'),
    Today(
        'H9 5000 lines',
        (_HY,),
        {'101', '431'},
        'accepted if all of it arrives at once, else 431',
    ),
    Today(
        'H12 subprotocol not ASCII',
        (_HY,),
        {'eof'},
        'the connection ends without an answer',
    ),
    Today('H12 subprotocol not ASCII', (_GR,), {'101'}, 'accepted'),
    *(
        Today(f'H12 {offer}', (_HY, _GR), {'101'}, 'accepted')
        for offer in ('malformed extension', 'unclosed quote')
    ),
    Today('H16', (_UV, _HY, _GR), {'403'}, '403: see Refusals'),
    *(
        Today(row, (_HY,), {'eof'}, 'the connection ends without a close frame')
        for row in (
            *('F1', 'F2', 'F3', 'F4', 'F5 top bit', 'F5 not minimal'),
            *('F12', 'F12 payloads'),
        )
    ),
    *(
        Today(row, (_GR,), {'no code'}, 'a close frame without a code')
        for row in (
            *('F1', 'F2', 'F3', 'F4', 'F5 top bit', 'F5 2^62', 'F5 64 MB', 'F8'),
            'F12 payloads',
        )
    ),
    Today(
        'F5 not minimal',
        (_UV, *_WSGI, _GR),
        {'answered'},
        'accepted: harmless, because no other program parses the frames',
    ),
)


def expected(row: str, target: Target, *outcomes: str) -> set[str]:
    """Return the possible outcomes of a row with a target."""
    for today in (*WEAKNESSES, *DIFFERS):
        if today.row == row and target.name in today.targets:
            return today.outcomes
    return set(outcomes)
