"""Servers that run `rooms.app`, besides the four of support.asgi_servers."""

from __future__ import annotations

APP = 'tests.rooms.app:app'

_UVICORN = ['python', '-m', 'uvicorn', '--port', '{port}', APP]

#: uvicorn's own WebSocket classes, by their names.
UVICORN = {
    'uvicorn websockets': [*_UVICORN, '--ws', 'websockets'],
    'uvicorn wsproto': [*_UVICORN, '--ws', 'wsproto'],
}

FURTHER = {
    'uvicorn wsproto': UVICORN['uvicorn wsproto'],
    'daphne': ['python', '-m', 'daphne', '--port', '{port}', APP],
    'gunicorn': [
        *('python', '-m', 'gunicorn', '--worker-class', 'asgi'),
        *('--bind', '127.0.0.1:{port}', APP),
    ],
}
