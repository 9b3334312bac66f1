"""falcon.App that also serves WebSockets, under the WSGI servers of sockets/table.py.

The WebSocket is served *around* `falcon.App`. An Upgrade request does not go through
`falcon.App.__call__`: it gets its socket from the server first. After that it uses the
same middleware, routing, hooks and error handlers as ordinary requests. A responder
cannot do this, because it cannot prevent the server from sending a response.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import inspect
import logging
from typing import Any

import falcon
from falcon.util.misc import get_argnames
from websockets.http11 import Response as HandshakeResponse

from falcon_channels.websocket.close_codes import HTTP_STATUS_BASE
from falcon_channels.websocket.close_codes import UNSUPPORTED_DATA
from falcon_channels.websocket.handshake import refusal_response
from falcon_channels.websocket.middleware import warn_of_http_middleware
from falcon_channels.wsgi.connection import WebSocketConnection
from falcon_channels.wsgi.errors import WebSocketError
from falcon_channels.wsgi.handshake import check_request
from falcon_channels.wsgi.handshake import parse_request
from falcon_channels.wsgi.handshake import parse_subprotocols
from falcon_channels.wsgi.handshake import wants_websocket
from falcon_channels.wsgi.options import WebSocketOptions
from falcon_channels.wsgi.sockets.base import Environ
from falcon_channels.wsgi.sockets.base import NoSocketError
from falcon_channels.wsgi.sockets.base import StartResponse
from falcon_channels.wsgi.sockets.base import TakenSocket
from falcon_channels.wsgi.sockets.table import SERVERS
from falcon_channels.wsgi.sockets.table import take_socket
from falcon_channels.wsgi.stream import Stream
from falcon_channels.wsgi.websocket import WebSocket

_logger = logging.getLogger(__name__)

_UNSUPPORTED = b'This server cannot serve WebSockets. Its log says which ones can.\n'


@dataclass(frozen=True, slots=True)
class _Handling:
    """The objects of one WebSocket while the app handles it."""

    req: falcon.Request
    resp: falcon.Response
    ws: WebSocket
    connection: WebSocketConnection
    params: dict[str, Any]


class App(falcon.App[falcon.Request, falcon.Response]):
    """A WSGI app that calls ``def on_websocket(self, req, ws, **params)``.

    It is a `falcon.App` and has the same arguments; ordinary requests are served as by
    `falcon.App`. WebSockets are routed by the same URI templates, converters and
    suffixes, and use the same hooks. Middleware components may have
    ``process_request_ws(req, ws)`` and
    ``process_resource_ws(req, ws, resource, params)``. A sink gets WebSockets if it has
    an argument ``ws``; its ``resp`` is None then.

    An exception before the handshake is accepted becomes the HTTP response of an
    ordinary request. After the accept, an `HTTPError` closes the WebSocket with code
    3000 + status, and an unexpected exception with 1011. If a responder returns, the
    WebSocket is closed with 1000.

    Error handlers may have an argument ``ws``. If one closes it, nothing else is sent.
    Other error handlers change ``resp``, and its status is translated as above.
    """

    ws_options: WebSocketOptions
    """Limits, timeouts and allowed origins of WebSockets."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.ws_options = WebSocketOptions()
        self._websocket_middleware: list[Any] = []
        self._warned_of_server = False
        self._checked_middleware = False
        super().__init__(*args, **kwargs)
        self.add_error_handler(
            falcon.WebSocketDisconnected, self._websocket_disconnected_handler
        )
        self.add_error_handler(falcon.PayloadTypeError, self._payload_type_handler)

    def __call__(self, env: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request (PEP 3333)."""
        # PERF: An ordinary request needs only this additional look-up.
        if 'HTTP_UPGRADE' in env and wants_websocket(env):
            return self._serve_websocket(env, start_response)
        return falcon.App.__call__(self, env, start_response)

    def add_middleware(self, middleware: Any) -> None:
        """Add middleware components, which may have only ``*_ws`` methods.

        Raises:
            falcon.CompatibilityError: Such a method is a coroutine function.
        """
        try:
            components = list(middleware)
        except TypeError:
            components = [middleware]
        for component in components:
            for name in ('process_request_ws', 'process_resource_ws'):
                if inspect.iscoroutinefunction(getattr(component, name, None)):
                    raise falcon.CompatibilityError(
                        f'{name} of {component} must be a regular function to be '
                        'used with a WSGI app'
                    )
        super().add_middleware(
            [
                component
                for component in components
                if not _has_only_websocket_methods(component)
            ]
        )
        self._websocket_middleware += components

    # One WebSocket.

    def _serve_websocket(
        self, env: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        if not self._checked_middleware:
            # NOTE: WSGI has no call for the start of an app. When the first WebSocket
            #   arrives, all routes are known.
            self._checked_middleware = True
            warn_of_http_middleware(self)
        try:
            server, taken = take_socket(env)
        except NoSocketError as ex:
            return self._refuse_without_socket(str(ex), start_response)
        stream = Stream(taken.sock, taken.ours)
        if taken.early is None:
            _logger.info(
                'Closed a WebSocket: the client sent bytes together with its '
                'handshake, and the server has lost them'
            )
            stream.close()
            return server.finish(start_response)
        connection = WebSocketConnection(
            stream, self.ws_options, taken.early, taken.accepted
        )
        try:
            self._answer(env, taken, connection)
        except BaseException:
            # NOTE: The worker stops: its thread ends, or its greenlet is killed.
            connection.abandon()
            raise
        connection.finish()
        return server.finish(start_response)

    def _refuse_without_socket(
        self, why: str, start_response: StartResponse
    ) -> Iterable[bytes]:
        if not self._warned_of_server:
            self._warned_of_server = True
            names = '; '.join(server.name for server in SERVERS)
            _logger.error(
                'WebSockets cannot be served: %s. Use one of these servers: %s.',
                why,
                names,
            )
        start_response(
            falcon.HTTP_501,
            [
                ('Content-Type', 'text/plain'),
                ('Content-Length', str(len(_UNSUPPORTED))),
            ],
        )
        return [_UNSUPPORTED]

    def _answer(
        self, env: Environ, taken: TakenSocket, connection: WebSocketConnection
    ) -> None:
        req = self._request_type(env, options=self.req_options)
        req.is_websocket = True
        handling = _Handling(
            req=req,
            resp=self._response_type(options=self.resp_options),
            ws=WebSocket(connection, self.ws_options, parse_subprotocols(env)),
            connection=connection,
            params={},
        )
        try:
            check_request(env, self.ws_options.allowed_origins, taken.tells_version)
            if not taken.accepted and not connection.check(parse_request(env)):
                return
            self._run_responder(req, handling.ws, handling.params)
        except Exception as ex:
            self._handle_websocket_exception(ex, handling)

    def _run_responder(
        self, req: falcon.Request, ws: WebSocket, params: dict[str, Any]
    ) -> None:
        components = self._websocket_middleware
        for component in components:
            if method := getattr(component, 'process_request_ws', None):
                method(req, ws)
        responder: Any
        responder, found, resource, req.uri_template = self._get_responder(req)
        params.update(found)
        if resource is not None:
            for component in components:
                if method := getattr(component, 'process_resource_ws', None):
                    method(req, ws, resource, params)
            responder(req, ws, **params)
        elif 'ws' in params or 'ws' not in get_argnames(responder):
            # A default responder, a static route, or a sink without WebSockets.
            raise falcon.HTTPRouteNotFound
        else:
            responder(req, None, ws=ws, **params)
        ws.close()

    # Errors.

    def _handle_websocket_exception(self, ex: Exception, handling: _Handling) -> None:
        """Turn an exception into a refusal or a close code, with the error handlers."""
        handled = False
        try:
            handled = self._call_error_handler(ex, handling)
        except Exception as handler_ex:
            self._report(ex, handling, False)
            if handler_ex is not ex:
                self._report(handler_ex, handling, False)
            _logger.exception('An error handler failed')
        try:
            self._close_with_status(handling, handled)
        except WebSocketError:
            _logger.debug('The client left before an error could be sent to it')

    def _call_error_handler(self, ex: Exception, handling: _Handling) -> bool:
        req, resp = handling.req, handling.resp
        handler: Any = self._find_error_handler(ex)
        if handler is None:
            return False
        derived: Exception | None = None
        try:
            if 'ws' in get_argnames(handler):
                handler(req, resp, ex, handling.params, ws=handling.ws)
            else:
                handler(req, resp, ex, handling.params)
        except falcon.HTTPStatus as status:
            derived = status
            self._compose_status_response(req, resp, status)
        except falcon.HTTPError as error:
            derived = error
            self._compose_error_response(req, resp, error)
        self._report(ex, handling, True)
        if derived is not None and derived is not ex:
            self._report(derived, handling, True)
        return True

    def _report(self, ex: Exception, handling: _Handling, handled: bool) -> None:
        if self._report_error is not None:
            self._report_error(handling.req, ex, handling.params, handled)

    def _close_with_status(self, handling: _Handling, handled: bool) -> None:
        """Send the status of `resp`, which an error handler has set, to the client."""
        ws, resp = handling.ws, handling.resp
        if ws.closed:
            return
        # NOTE: An unchanged 200 would not tell the client that it was refused.
        has_status = handled and resp.status_code >= 300
        if ws.unaccepted:
            handling.connection.respond(
                self._render(resp) if has_status else refusal_response(500)
            )
        elif has_status:
            code = HTTP_STATUS_BASE + resp.status_code
            _logger.info('Closing a WebSocket of %r with %d', handling.req.path, code)
            ws.close(code)
        else:
            ws.close(self.ws_options.error_close_code)

    def _render(self, resp: falcon.Response) -> HandshakeResponse:
        try:
            body, _ = self._get_body(resp)
            headers = resp._wsgi_headers(self.resp_options.default_media_type)
            return refusal_response(
                resp.status_code, headers=headers, body=b''.join(body)
            )
        except Exception:
            # NOTE: the client would get no answer, and the server an unrelated error.
            _logger.exception('The response to a handshake cannot be written')
            return refusal_response(500)

    def _python_error_handler(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        error: Exception,
        params: dict[str, Any],
        ws: WebSocket | None = None,
    ) -> None:
        if ws is None:
            # SECURITY: Falcon writes the query string to the log, too. That of an event
            #   stream can carry a token.
            _logger.error(
                'Unhandled exception in %s %.255r', req.method, req.path, exc_info=error
            )
            self._compose_error_response(req, resp, falcon.HTTPInternalServerError())
            return
        _logger.error('Unhandled exception in on_websocket', exc_info=error)
        if ws.unaccepted:
            self._compose_error_response(req, resp, falcon.HTTPInternalServerError())
        else:
            ws.close(self.ws_options.error_close_code)

    def _websocket_disconnected_handler(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        error: falcon.WebSocketDisconnected,
        params: dict[str, Any],
        ws: WebSocket | None = None,
    ) -> None:
        if ws is None:
            # On an ordinary request it is an unexpected exception.
            self._python_error_handler(req, resp, error, params)
            return
        _logger.debug('WebSocket client disconnected with code %d', error.code)
        if not ws.unaccepted:
            ws.close()

    def _payload_type_handler(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        error: falcon.PayloadTypeError,
        params: dict[str, Any],
        ws: WebSocket | None = None,
    ) -> None:
        if ws is None or ws.unaccepted:
            self._python_error_handler(req, resp, error, params, ws)
            return
        ws.close(UNSUPPORTED_DATA, str(error))


def _has_only_websocket_methods(component: Any) -> bool:
    return any(
        hasattr(component, name)
        for name in ('process_request_ws', 'process_resource_ws')
    ) and not any(
        hasattr(component, name)
        for name in ('process_request', 'process_resource', 'process_response')
    )
