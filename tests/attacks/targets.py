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


class Difference(NamedTuple):
    """The outcome of a row that differs from the expected one.

    Attributes:
        row: Row of the suite.
        targets: Names of the targets.
        outcomes: Possible outcomes.
        description: Description of the outcome, the same as in docs/security.md.
    """

    row: str
    targets: tuple[str, ...]
    outcomes: set[str]
    description: str


_UV, _HY, _GR = 'uvicorn', 'hypercorn', 'granian'
_WSGI = ('gevent', 'gthread')

#: Attacks that succeed; docs/security.md also has the remedies.
WEAKNESSES = (
    Difference(
        'H2',
        (_UV, _GR),
        {'403'},
        '403, from `OriginCheck`; an app without it accepts',
    ),
    Difference(
        'H3 end',
        (_HY,),
        {'stays'},
        'the connection stays open, and its input is not read',
    ),
    Difference(
        'H3 end',
        (_GR,),
        {'read, stays'},
        'the request behind it is answered; the connection ends after 30 s',
    ),
    Difference(
        'H4 length',
        (_UV,),
        {'silence'},
        'no answer, and one such client keeps the server from stopping cleanly',
    ),
    Difference('H4 chunked', (_UV,), {'silence'}, 'the same'),
    Difference(
        'H8 h2c',
        (_HY,),
        {'101'},
        'HTTP/2 begins. If a proxy passes on this `Upgrade`, an attacker '
        'can send requests that it does not see, to blocked paths and with '
        'forged headers',
    ),
    *(
        Difference(f'H9 {headers}', (_UV,), {'silence'}, 'no answer, as H4')
        for headers in ('line of 70 KB', 'line of 1 MB', '130 lines', '5000 lines')
    ),
    Difference('H9 flood', (_UV,), {'grows'}, 'memory grows with what is sent'),
    Difference('H10 half', (_UV, 'gthread'), {'silence'}, 'the connection stays open'),
    Difference('H10 half', (_GR,), {'silence'}, 'the connection ends after 30 s'),
    Difference(
        'H10 none', (_UV, 'gthread', _GR), {'silence'}, 'the connection stays open'
    ),
    Difference(
        'H11 log',
        (_HY, _GR),
        {'forged'},
        'the access log, which is off by default, writes line breaks '
        'unescaped: an attacker can forge lines',
    ),
    Difference(
        'H11 token',
        (_UV,),
        {'shown'},
        'the log shows the query string, also with `--no-access-log`',
    ),
    Difference('H12 2000 extensions', (_UV,), {'silence'}, 'no answer, as H4'),
    Difference('H12 log', (_HY,), {'traceback'}, 'a traceback for such a subprotocol'),
    Difference('H13', (_UV,), {'lost'}, 'the frame is lost'),
    Difference('F4 log', (_UV,), {'traceback'}, 'a traceback for every such text'),
    *(
        Difference(
            f'F5 {length}',
            (_HY,),
            {'nothing, stays'},
            'the server waits for the announced length and buffers it without '
            'a limit, as in F6 memory',
        )
        for length in ('2^62', '64 MB')
    ),
    Difference(
        'F6 fragments',
        (_HY,),
        {'1009, stays'},
        '1009 after 16 MiB, but the connection stays open and in its channels',
    ),
    Difference('F6 fragments', (_GR,), {'nothing, stays'}, 'its limit is 64 MiB'),
    Difference(
        'F6 memory',
        (_HY,),
        {'grows without end'},
        'all data after the 1009 is buffered: one client can fill the memory',
    ),
    Difference('F6 memory', (_UV,), {'grows'}, 'its limit is 16 MiB'),
    Difference(
        'F6 memory',
        (_GR,),
        {'grows'},
        'its limit is 64 MiB (16 MiB in a frame) for each connection',
    ),
    Difference(
        'F7', (_UV,), {'answered'}, 'accepted, and all other clients wait meanwhile'
    ),
    Difference('F7', (_HY, _GR), {'answered'}, 'accepted'),
    Difference(
        'F8 memory',
        (_UV,),
        {'grows'},
        'its limit is 16 MiB: memory grows by twice as much',
    ),
    Difference('F8 memory', (_HY,), {'grows'}, 'it is decompressed completely'),
    Difference('F9', (_UV, _GR), {'grows'}, 'memory grows with what is sent'),
    Difference('F11', (_UV, _HY, _GR), {'stays'}, 'the socket stays open'),
    # NOTE: The C library may store freed memory in an arena of the thread.
    Difference(
        'F14',
        ('gthread',),
        {'stays', 'gone'},
        'the C library may not return the memory that threads have freed',
    ),
    Difference(
        'F14',
        (_GR,),
        {'stays'},
        'each connection keeps twice its largest message until it ends',
    ),
)

#: Other answers that do no harm.
DIFFERS = (
    Difference('H3 version', (_UV, _HY, _GR), {'none'}, '400, which does not name 13'),
    *(
        Difference(f'H4 {body}', (_GR,), {'101'}, 'accepted; the body is ignored')
        for body in ('length', 'chunked')
    ),
    *(
        Difference(
            f'H6 {keys}',
            (_HY, _GR),
            {'101'},
            'accepted: the key does not protect the server',
        )
        for keys in ('short', 'not-base64', 'twice')
    ),
    Difference('H6 POST', (_GR,), {'101'}, 'accepted; no page can send it'),
    Difference('H6 HTTP/1.0', (_UV,), {'101'}, 'accepted'),
    Difference('H6 HTTP/1.0', (_GR,), {'403'}, '403'),
    Difference('H9 line of 70 KB', (_GR,), {'101'}, 'accepted: its limit is higher'),
    # NOTE: Hypercorn buffers 16 KiB of an incomplete request, and reads up to 64 KiB.
    Difference('H9 130 lines', (_HY,), {'101'}, 'accepted'),
    Difference(
        'H9 5000 lines',
        (_HY,),
        {'101', '431'},
        'accepted if all of it arrives at once, else 431',
    ),
    Difference(
        'H12 subprotocol not ASCII',
        (_HY,),
        {'eof'},
        'the connection ends without an answer',
    ),
    Difference('H12 subprotocol not ASCII', (_GR,), {'101'}, 'accepted'),
    *(
        Difference(f'H12 {offer}', (_HY, _GR), {'101'}, 'accepted')
        for offer in ('malformed extension', 'unclosed quote')
    ),
    Difference('H16', (_UV, _HY, _GR), {'403'}, '403: see Refusals'),
    *(
        Difference(row, (_HY,), {'eof'}, 'the connection ends without a close frame')
        for row in (
            *('F1', 'F2', 'F3', 'F4', 'F5 top bit', 'F5 not minimal'),
            *('F12', 'F12 payloads'),
        )
    ),
    *(
        Difference(row, (_GR,), {'no code'}, 'a close frame without a code')
        for row in (
            *('F1', 'F2', 'F3', 'F4', 'F5 top bit', 'F5 2^62', 'F5 64 MB', 'F8'),
            'F12 payloads',
        )
    ),
    Difference(
        'F5 not minimal',
        (_UV, *_WSGI, _GR),
        {'answered'},
        'accepted: harmless, because no other program parses the frames',
    ),
)


def expected(row: str, target: Target, *outcomes: str) -> set[str]:
    """Return the possible outcomes of a row with a target."""
    for difference in (*WEAKNESSES, *DIFFERS):
        if difference.row == row and target.name in difference.targets:
            return difference.outcomes
    return set(outcomes)
