"""The servers that run `rooms.app`."""

from __future__ import annotations

_APP = 'tests.rooms.app:app'
_UVICORN = ['python', '-m', 'uvicorn', '--port', '{port}', '--log-level', 'warning']

#: The two ways that most people will start it.
USUAL = {
    'uvicorn': [*_UVICORN, _APP],
    'falcon-channels': [
        *('python', '-m', 'falcon_channels', 'serve', '--port', '{port}'),
        *('--log-level', 'warning', _APP),
    ],
}

#: uvicorn's own classes for WebSockets, by their names.
UVICORN = {
    'uvicorn websockets': [*_UVICORN, '--ws', 'websockets', _APP],
    'uvicorn wsproto': [*_UVICORN, '--ws', 'wsproto', _APP],
}

OTHERS = {
    'uvicorn wsproto': UVICORN['uvicorn wsproto'],
    'hypercorn': ['python', '-m', 'hypercorn', '--bind', '127.0.0.1:{port}', _APP],
    'daphne': ['python', '-m', 'daphne', '--port', '{port}', _APP],
    'granian': [
        *('python', '-m', 'granian', '--interface', 'asgi', '--port', '{port}'),
        *('--ws', _APP),
    ],
    'gunicorn': [
        *('python', '-m', 'gunicorn', '--worker-class', 'asgi'),
        *('--bind', '127.0.0.1:{port}', _APP),
    ],
}
