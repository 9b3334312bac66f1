"""The table: where each WSGI server has its socket, and how its response ends."""

from __future__ import annotations

from falcon_channels.wsgi.sockets import cheroot
from falcon_channels.wsgi.sockets import eventlet
from falcon_channels.wsgi.sockets import gevent_websocket
from falcon_channels.wsgi.sockets import gunicorn
from falcon_channels.wsgi.sockets import pywsgi
from falcon_channels.wsgi.sockets import uwsgi
from falcon_channels.wsgi.sockets import waitress
from falcon_channels.wsgi.sockets import werkzeug
from falcon_channels.wsgi.sockets import wsgiref
from falcon_channels.wsgi.sockets.base import Environ
from falcon_channels.wsgi.sockets.base import NoSocketError
from falcon_channels.wsgi.sockets.base import ServerAdapter
from falcon_channels.wsgi.sockets.base import TakenSocket

#: The first server whose `take` returns a socket is used. A wrapper is therefore listed
#: before the server that it wraps.
#: SECURITY: Adapters look for keys that a client cannot set: the client's headers all
#: begin with HTTP_ in an environ.
SERVERS = (
    ServerAdapter(
        'gevent-websocket',
        place="environ['wsgi.websocket'].stream.handler.socket",
        end='return nothing',
        take=gevent_websocket.take,
        finish=gevent_websocket.finish,
    ),
    ServerAdapter(
        'gunicorn sync, gthread, gevent',
        place="environ['gunicorn.socket']",
        end='raise StopIteration',
        take=gunicorn.take,
        finish=gunicorn.finish,
    ),
    ServerAdapter(
        'gevent.pywsgi, gunicorn gevent_pywsgi',
        place="environ['wsgi.input'].raw._sock",
        end='raise BrokenPipeError',
        take=pywsgi.take,
        finish=pywsgi.finish,
    ),
    ServerAdapter(
        'waitress',
        place="environ['waitress.client_disconnected'].__self__.socket",
        end='raise waitress.channel.ClientDisconnected',
        take=waitress.take,
        finish=waitress.finish,
    ),
    ServerAdapter(
        'Werkzeug',
        place="environ['werkzeug.socket']",
        end='a response, which it cannot write',
        take=werkzeug.take,
        finish=werkzeug.finish,
    ),
    ServerAdapter(
        'eventlet',
        place="environ['eventlet.input'].get_socket()",
        end='eventlet.wsgi.WSGI_LOCAL.already_handled = True',
        take=eventlet.take,
        finish=eventlet.finish,
    ),
    ServerAdapter(
        'cheroot',
        place="environ['wsgi.input'].rfile.raw._sock",
        end='raise BrokenPipeError',
        take=cheroot.take,
        finish=cheroot.finish,
    ),
    ServerAdapter(
        'uWSGI',
        place='uwsgi.connection_fd()',
        end='return nothing',
        take=uwsgi.take,
        finish=uwsgi.finish,
    ),
    ServerAdapter(
        'wsgiref',
        place="environ['wsgi.input'].raw._sock",
        end='raise BrokenPipeError',
        take=wsgiref.take,
        finish=wsgiref.finish,
    ),
)


def take_socket(environ: Environ) -> tuple[ServerAdapter, TakenSocket]:
    """Return the server that runs this app, and the connection of a request.

    Raises:
        NoSocketError: No socket can be reached; the message says why.
    """
    for server in SERVERS:
        taken = server.take(environ)
        if taken is not None:
            return server, taken
    software = environ.get('SERVER_SOFTWARE', 'this WSGI server')
    raise NoSocketError(f'{software} does not let an application reach its socket')
