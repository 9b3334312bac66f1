"""Serve echo_wsgi by a server that has no command: ``serve_wsgi.py NAME PORT``."""

from __future__ import annotations

import contextlib
import importlib
import os
from socketserver import ThreadingMixIn
import sys
from wsgiref.simple_server import make_server
from wsgiref.simple_server import WSGIServer


def application():
    return importlib.import_module('echo_wsgi').app


def pywsgi(port: int) -> None:
    importlib.import_module('gevent.monkey').patch_all()
    pywsgi_unpatched(port)


def pywsgi_unpatched(port: int, **options) -> None:
    server = importlib.import_module('gevent.pywsgi').WSGIServer
    server(('127.0.0.1', port), application(), **options).serve_forever()


def gevent_websocket(port: int) -> None:
    handler = importlib.import_module('geventwebsocket.handler').WebSocketHandler
    pywsgi_unpatched(port, handler_class=handler)


def eventlet(port: int) -> None:
    # NOTE: eventlet's own DNS imports other packages that are installed for tests, and
    #   then cannot patch them.
    os.environ['EVENTLET_NO_GREENDNS'] = 'yes'
    importlib.import_module('eventlet').monkey_patch()
    eventlet_unpatched(port)


def eventlet_unpatched(port: int) -> None:
    listener = importlib.import_module('eventlet').listen(('127.0.0.1', port))
    importlib.import_module('eventlet.wsgi').server(listener, application())


def werkzeug(port: int) -> None:
    run_simple = importlib.import_module('werkzeug.serving').run_simple
    run_simple('127.0.0.1', port, application(), threaded=True)


def cheroot(port: int) -> None:
    server = importlib.import_module('cheroot.wsgi').Server(
        ('127.0.0.1', port), application(), numthreads=64
    )
    try:
        server.start()
    finally:
        server.stop()


class ThreadingServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64


def wsgiref(port: int) -> None:
    make_server(
        '127.0.0.1', port, application(), server_class=ThreadingServer
    ).serve_forever()


def uwsgi(port: int) -> None:
    importlib.import_module('pyuwsgi').run(
        [
            *('--http-socket', f'127.0.0.1:{port}', '--module', 'echo_wsgi'),
            *('--master', '--die-on-term', '--threads', '64', '--need-app'),
            *('--pythonpath', sys.path[0], '--home', sys.prefix, '--listen', '64'),
        ]
    )


if __name__ == '__main__':
    with contextlib.suppress(KeyboardInterrupt):
        globals()[sys.argv[1]](int(sys.argv[2]))
