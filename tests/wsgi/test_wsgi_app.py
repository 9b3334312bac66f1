"""The app: routing of WebSockets, and the effect of exceptions."""

from __future__ import annotations

import logging
from typing import Any

import falcon
from falcon import testing
import falcon.asgi
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection

from falcon_channels import OptionsError
from falcon_channels.wsgi import App
from falcon_channels.wsgi.testing import simulate_ws

DEADLINE_S = 10.0


class Echo:
    """Sends its parameters first, then echoes the messages."""

    def on_get(self, req, resp, **params):
        resp.media = {'params': {name: str(value) for name, value in params.items()}}

    def on_websocket(self, req, ws, **params):
        ws.accept()
        ws.send_media({name: str(value) for name, value in sorted(params.items())})
        for message in ws:
            ws.send(message)

    def on_websocket_shout(self, req, ws, **params):
        ws.send(ws.receive().upper())


class Raises:
    """Raises a given exception before or after it accepts."""

    def __init__(self, ex: Exception, accept: bool) -> None:
        self._ex = ex
        self._accept = accept

    def on_websocket(self, req, ws):
        if self._accept:
            ws.accept()
        raise self._ex


def end_of(client: ClientConnection) -> tuple[int | None, str | None]:
    """Wait until the server closes; return the code and the reason."""
    with pytest.raises(ConnectionClosed):
        client.recv(timeout=DEADLINE_S)
    return client.close_code, client.close_reason


def refusal_of(app: App, path: str = '/', **options):
    """Connect to a refused WebSocket; return the HTTP response."""
    with pytest.raises(InvalidStatus) as caught, simulate_ws(app, path, **options):
        pass
    return caught.value.response


def app_with(resource: object, **options) -> App:
    app = App(**options)
    app.add_route('/', resource)
    return app


def test_uri_template_fields_reach_on_websocket_converted() -> None:
    """Fields of the URI template are arguments of on_websocket."""
    app = App()
    app.add_route('/rooms/{room:int}/{name}', Echo())
    with simulate_ws(app, '/rooms/7/anna') as client:
        assert '{"name": "anna", "room": "7"}' == client.recv(timeout=DEADLINE_S)
        client.send('hi')
        assert 'hi' == client.recv(timeout=DEADLINE_S)


def test_route_with_a_suffix_calls_on_websocket_suffix() -> None:
    """A responder that only receives accepts implicitly."""
    app = App()
    app.add_route('/shout', Echo(), suffix='shout')
    with simulate_ws(app, '/shout') as client:
        client.send('hi')
        assert 'HI' == client.recv(timeout=DEADLINE_S)
        assert (1000, 'Normal Closure') == end_of(client)


def test_request_without_websocket_upgrade_is_served_by_falcon() -> None:
    """A resource with on_websocket answers on_get as before."""
    app = App()
    app.add_route('/rooms/{room}', Echo())
    client = testing.TestClient(app)
    assert {'params': {'room': '7'}} == client.simulate_get('/rooms/7').json
    # Upgrade is ignored without Connection: upgrade, and h2c is not a WebSocket.
    for headers in ({'Upgrade': 'websocket'}, {'Upgrade': 'h2c'}):
        assert 200 == client.simulate_get('/rooms/7', headers=headers).status_code


def test_unknown_path_refuses_the_handshake_with_404() -> None:
    """The response has Falcon's body."""
    response = refusal_of(App(), '/nowhere')
    assert 404 == response.status_code
    assert b'404 Not Found' in response.body


def test_resource_without_on_websocket_refuses_the_handshake_with_405() -> None:
    """The response has the allowed methods."""

    class Plain:
        def on_get(self, req, resp):
            pass

    response = refusal_of(app_with(Plain()))
    assert (405, 'GET, OPTIONS') == (response.status_code, response.headers['Allow'])


def test_responder_that_returns_without_accept_refuses_with_403() -> None:
    """A responder that returns at once refuses the handshake."""

    class Silent:
        def on_websocket(self, req, ws):
            pass

    assert 403 == refusal_of(app_with(Silent())).status_code


@pytest.mark.parametrize(('code', 'status'), [(None, 403), (4001, 403), (3429, 429)])
def test_close_before_accept_is_an_http_response(code: int | None, status: int) -> None:
    """A code of 3000 + status gives that status, other codes give 403."""

    class Closes:
        def on_websocket(self, req, ws):
            assert ws.unaccepted
            ws.close(code)
            assert ws.closed
            with pytest.raises(falcon.OperationNotAllowed):
                ws.accept()

    assert status == refusal_of(app_with(Closes())).status_code


def test_http_error_before_accept_is_the_response() -> None:
    """The client gets status, headers and body of the HTTPError."""
    ex = falcon.HTTPTooManyRequests(title='slowly', retry_after=7)
    response = refusal_of(app_with(Raises(ex, accept=False)))
    assert (429, '7') == (response.status_code, response.headers['Retry-After'])
    assert response.body is not None
    assert b'{"title": "slowly"}' == response.body
    assert 'close' == response.headers['Connection']


def test_http_status_before_accept_is_the_response() -> None:
    """The client gets status, headers and text of the HTTPStatus."""
    ex = falcon.HTTPStatus(falcon.HTTP_410, {'X-Since': '2020'}, 'moved on')
    response = refusal_of(app_with(Raises(ex, accept=False)))
    assert (410, '2020') == (response.status_code, response.headers['X-Since'])
    assert b'moved on' == response.body


def test_http_error_after_accept_closes_with_3000_plus_status() -> None:
    """The close reason is the phrase of the status."""
    with simulate_ws(app_with(Raises(falcon.HTTPForbidden(), accept=True))) as client:
        assert (3403, 'Forbidden') == end_of(client)


def test_unexpected_exception_after_accept_closes_with_1011_and_is_logged_once(
    caplog,
) -> None:
    """The client gets no details of the exception."""
    app = app_with(Raises(ZeroDivisionError('secret'), accept=True))
    with simulate_ws(app) as client:
        assert (1011, 'Internal Server Error') == end_of(client)
    records = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert ['Unhandled exception in on_websocket'] == [r.message for r in records]


def test_unexpected_exception_before_accept_refuses_with_500(caplog) -> None:
    """The client gets no details, and the exception is logged once."""
    response = refusal_of(app_with(Raises(ZeroDivisionError('secret'), accept=False)))
    assert 500 == response.status_code
    assert b'secret' not in response.body
    assert 1 == len([r for r in caplog.records if r.levelno >= logging.ERROR])


def test_uncaught_disconnect_ends_the_responder_without_a_log_record(caplog) -> None:
    """A client that leaves causes no record above DEBUG."""
    caplog.set_level(logging.INFO)

    class Receives:
        def on_websocket(self, req, ws):
            while True:
                ws.receive()

    with simulate_ws(app_with(Receives())) as client:
        client.send('one')
        client.close(1001)
    assert [] == [r for r in caplog.records if r.name.startswith('falcon_channels')]


def test_binary_message_to_receive_text_closes_with_1003(caplog) -> None:
    """A message of the wrong kind is the client's error: no traceback."""

    class Texts:
        def on_websocket(self, req, ws):
            ws.accept()
            ws.receive_text()

    with simulate_ws(app_with(Texts())) as client:
        client.send(b'\x00')
        assert (1003, 'Missing TEXT (0x01) payload') == end_of(client)
    assert [] == [r for r in caplog.records if r.levelno >= logging.ERROR]


class Recorder:
    """Middleware that records its calls, and may refuse."""

    def __init__(self, refuse: bool = False) -> None:
        self.calls: list[object] = []
        self._refuse = refuse

    def process_request_ws(self, req, ws):
        self.calls.append(('request', req.path, req.is_websocket, ws.unaccepted))
        if self._refuse:
            raise falcon.HTTPUnauthorized()
        req.context.user = 'anna'

    def process_resource_ws(self, req, ws, resource, params):
        self.calls.append(('resource', type(resource).__name__, dict(params)))
        params['extra'] = req.context.user


def test_websocket_middleware_runs_and_may_change_params() -> None:
    """process_request_ws and process_resource_ws run before the responder."""
    recorder = Recorder()
    app = App(middleware=[recorder])
    app.add_route('/rooms/{room}', Echo())
    with simulate_ws(app, '/rooms/7') as client:
        assert '{"extra": "anna", "room": "7"}' == client.recv(timeout=DEADLINE_S)
    assert [
        ('request', '/rooms/7', True, True),
        ('resource', 'Echo', {'room': '7'}),
    ] == recorder.calls


def test_http_error_of_middleware_refuses_the_handshake() -> None:
    """The error is the response, and no responder runs."""
    recorder = Recorder(refuse=True)
    assert 401 == refusal_of(app_with(Echo(), middleware=[recorder])).status_code
    assert 1 == len(recorder.calls)


def test_coroutine_middleware_is_refused_when_it_is_added() -> None:
    """A process_request_ws that is a coroutine function fails at start-up."""

    class Wrong:
        async def process_request_ws(self, req, ws):
            pass

        def process_request(self, req, resp):
            pass

    with pytest.raises(falcon.CompatibilityError, match='process_request_ws'):
        App(middleware=[Wrong()])


def test_falcon_hooks_wrap_on_websocket() -> None:
    """@falcon.before and @falcon.after of a class apply to on_websocket."""
    seen = []

    def before(req, ws, resource, params):
        seen.append(('before', params))
        if req.get_param('refuse'):
            raise falcon.HTTPForbidden()

    def after(req, ws, resource):
        seen.append(('after', ws.closed))

    @falcon.before(before)
    @falcon.after(after)
    class Hooked:
        def on_websocket(self, req, ws):
            ws.accept()

    app = app_with(Hooked())
    with simulate_ws(app) as client:
        assert (1000, 'Normal Closure') == end_of(client)
    assert [('before', {}), ('after', False)] == seen
    assert 403 == refusal_of(app, '/?refuse=1').status_code


def test_sink_with_ws_argument_serves_websockets() -> None:
    """A sink with an argument ws serves WebSockets; its resp is None."""

    def sink(req, resp, ws=None, **params):
        assert resp is None
        ws.accept()
        ws.send_media(params)

    app = App()
    app.add_sink(sink, '/files/(?P<name>[a-z]+)')
    with simulate_ws(app, '/files/abc') as client:
        assert '{"name": "abc"}' == client.recv(timeout=DEADLINE_S)


def test_sink_without_ws_argument_refuses_websockets_with_404() -> None:
    """A sink without an argument ws is not called."""

    def sink(req, resp):
        raise AssertionError('called')

    app = App()
    app.add_sink(sink, '/')
    assert 404 == refusal_of(app).status_code


def test_error_handler_with_ws_argument_may_close() -> None:
    """An error handler with an argument ws may close with its own code."""

    def handler(req, resp, ex, params, ws=None):
        ws.close(4000, 'because')

    app = app_with(Raises(KeyError('x'), accept=True))
    app.add_error_handler(KeyError, handler)
    with simulate_ws(app) as client:
        assert (4000, 'because') == end_of(client)


@pytest.mark.parametrize('accept', [True, False])
def test_status_of_an_error_handler_becomes_refusal_or_close_code(accept: bool) -> None:
    """An error handler that was written for HTTP works for WebSockets."""

    def handler(req, resp, ex, params):
        resp.status = 409
        resp.media = {'conflict': True}

    app = app_with(Raises(KeyError('x'), accept=accept))
    app.add_error_handler(KeyError, handler)
    if accept:
        with simulate_ws(app) as client:
            assert (3409, 'Conflict') == end_of(client)
    else:
        response = refusal_of(app)
        assert (409, b'{"conflict": true}') == (response.status_code, response.body)


@pytest.mark.parametrize('accept', [True, False])
def test_http_error_raised_by_an_error_handler_counts(accept: bool) -> None:
    """The effect is the same as if the responder had raised it."""

    def handler(req, resp, ex, params):
        raise falcon.HTTPConflict()

    reported = []
    app = app_with(Raises(KeyError('x'), accept=accept))
    app.add_error_handler(KeyError, handler)
    app.set_error_reporter(lambda req, ex, params, ok: reported.append((type(ex), ok)))
    if accept:
        with simulate_ws(app) as client:
            assert (3409, 'Conflict') == end_of(client)
    else:
        assert 409 == refusal_of(app).status_code
    assert [(KeyError, True), (falcon.HTTPConflict, True)] == reported


@pytest.mark.parametrize('accept', [True, False])
def test_error_handler_that_fails_is_logged(accept: bool, caplog) -> None:
    """A failing error handler ends in 1011 or 500, and in the log."""

    def handler(req, resp, ex, params):
        raise RuntimeError

    app = app_with(Raises(KeyError('x'), accept=accept))
    app.add_error_handler(KeyError, handler)
    if accept:
        with simulate_ws(app) as client:
            assert (1011, 'Internal Server Error') == end_of(client)
    else:
        assert 500 == refusal_of(app).status_code
    assert ['An error handler failed'] == [r.message for r in caplog.records]


def test_server_without_a_socket_answers_501_and_logs_usable_servers(caplog) -> None:
    """The log has the names of the servers that work, once."""
    client = testing.TestClient(app_with(Echo()))
    headers = {'Upgrade': 'websocket', 'Connection': 'Upgrade'}
    for _ in range(2):
        assert 501 == client.simulate_get('/', headers=headers).status_code
    assert 1 == len(caplog.records)
    assert 'gunicorn sync, gthread, gevent' in caplog.text


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'query_string': 'user=ann'}, 'write the query into the path'),
        ({'params': {'user': 'ann'}}, 'write the query into the path'),
        ({'headers': {'Cookie': 'a=b'}}, 'write additional_headers=...'),
        ({'cookies': {'a': 'b'}}, 'write additional_headers={"Cookie": '),
        ({'orign': 'http://localhost'}, 'see websockets.sync.client.connect'),
    ],
)
def test_simulated_websocket_refuses_arguments_that_its_client_does_not_have(
    options: dict[str, Any], words: str
) -> None:
    """An argument is never ignored: the test would connect as another client."""
    with pytest.raises(TypeError) as caught, simulate_ws(App(), '/', **options):
        pass
    assert f'simulate_ws has no argument {next(iter(options))!r}: ' in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize('app', [falcon.App(), falcon.asgi.App()])
def test_simulated_websocket_of_an_app_without_websockets_is_refused(app: Any) -> None:
    """The error names the class to use, before a connection is made."""
    with pytest.raises(OptionsError) as caught, simulate_ws(app, '/'):
        pass
    assert 'simulate_ws needs a falcon_channels.wsgi.App, not falcon.' in str(
        caught.value
    )
