"""The application of hello_wsgi.py, served by gevent without another server.

python examples/wsgi.py --port 8000
gunicorn -k gevent --chdir examples wsgi:app
"""

from gevent import monkey

monkey.patch_all()  # must run before the modules that it patches are imported

from argparse import ArgumentParser  # noqa: E402 - see above
import contextlib  # noqa: E402 - see above

from gevent.pywsgi import WSGIServer  # noqa: E402 - see above
from hello_wsgi import app  # noqa: E402 - see above


def main():
    parser = ArgumentParser(description='Serve a page with an echo WebSocket.')
    parser.add_argument('--host', default='127.0.0.1')
    parser.add_argument('--port', type=int, default=8000)
    args = parser.parse_args()
    host = 'localhost' if args.host in ('127.0.0.1', '0.0.0.0', '::') else args.host
    print(f'Page:      http://{host}:{args.port}/hello')
    print(f'WebSocket: ws://{host}:{args.port}/', flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        WSGIServer((args.host, args.port), app).serve_forever()


if __name__ == '__main__':
    main()
