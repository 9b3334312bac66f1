"""Admit clients: check the origin, the capacity and the state of the node.

An endpoint calls `admit` when a request asks for a connection. A plain WebSocket calls
`check_origin` and `check_capacity`, because its subscription starts the node. All of
them call `add` when the connection is accepted. `add` checks the capacity again.
Several requests can pass the first check at the same time, and the process can begin
to drain while a client connects. All of this is timed::

    with handshake.time() as timing:
        await handshake.admit(req)
        ...
        handshake.add(connection, timing)
"""

from __future__ import annotations

from collections.abc import Awaitable
from collections.abc import Callable
import logging
import time
from types import TracebackType
from typing import Final

import falcon
import falcon.asgi

from falcon_channels.access.responders import text_for_client
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ClosedError
from falcon_channels.events import log_event
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.hub import Hub
from falcon_channels.operations import Operation
from falcon_channels.operations import Operations
from falcon_channels.operations import Timing
from falcon_channels.options import NodeOptions
from falcon_channels.origin import log_refusal
from falcon_channels.origin import refused_connection
from falcon_channels.origin import request_origin_error

_logger = logging.getLogger('falcon_channels')

#: Warning about an ASGI app that does not start the node; nothing else shows it.
_NOT_STARTED = (
    'the app serves clients, but did not start its channels: write '
    'falcon.asgi.App(middleware=[channels]), and run the server with lifespan. '
    'Otherwise clients are not drained when the process stops'
)
#: Message for a refusal with its reason.
_REFUSED = 'a connection is refused: %s'
#: Minimum number of seconds between two warnings about the limit of connections.
_LOG_LIMIT_EVERY_S = 60.0
#: Seconds after which a refused client may try again.
_RETRY_AFTER_S = 10
#: Values of Sec-Fetch-Site that name another origin.
_OTHER_SITES = ('cross-site', 'same-site')


class HandshakeTiming:
    """Times one handshake, until `Handshake.add` or an error. A context manager.

    Its ``with`` may be entered again, and may contain more than the handshake.

    Args:
        timing: The timing, which has begun; ``None`` if nothing observes.
    """

    __slots__ = ('_timing',)

    def __init__(self, timing: Timing | None) -> None:
        self._timing = timing

    def end(self, detail: str, error: BaseException | None = None) -> None:
        """End the handshake, unless it has ended.

        Args:
            detail: Class of the connection, or ``''``.
            error: The exception that refused the client, or ``None``.
        """
        timing, self._timing = self._timing, None
        if timing is not None:
            timing.operation.detail = detail
            timing.end(error)

    def __enter__(self) -> HandshakeTiming:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if value is not None:
            self.end('', value)


#: The timing of all handshakes while nothing observes.
NOT_TIMED: Final = HandshakeTiming(None)


class Handshake:
    """Admits connections to the hub of this process, or refuses them.

    Args:
        hub: Hub of this process.
        operations: Operations of this process.
        options: Limits; `allowed_origins` and `max_connections` are used here.
        start: Starts the node, if it has not started.
        is_started_by_app: Returns whether the application has started the node itself.
    """

    def __init__(
        self,
        hub: Hub,
        operations: Operations,
        options: NodeOptions,
        start: Callable[[], Awaitable[None]],
        is_started_by_app: Callable[[], bool],
    ) -> None:
        self._hub = hub
        self._operations = operations
        self._options = options
        self._start = start
        self._is_started_by_app = is_started_by_app
        self._warned_of_start = False
        #: Monotonic time from which the limit of connections is logged again.
        self._log_limit_at_s = 0.0

    async def admit(self, req: falcon.Request) -> None:
        """Check that a request may open a connection now.

        Raises:
            falcon.HTTPForbidden: The page that sent it has another origin.
            falcon.HTTPBadRequest: Its Host header cannot be trusted.
            falcon.HTTPServiceUnavailable: The process is full, draining or closed, or
                the broker cannot be reached.
        """
        self.check_origin(req)
        self.check_capacity(req)
        try:
            if self._hub.draining:
                raise ClosedError('shutting down')
            await self._start()
        except (BrokerUnavailableError, ClosedError) as ex:
            raise self._unavailable(req, str(ex), logging.INFO, _REFUSED, ex) from None

    def time(self) -> HandshakeTiming:
        """Begin to time a handshake. The caller enters the result with ``with``."""
        if not self._operations.wanted:
            return NOT_TIMED
        return HandshakeTiming(self._operations.begin(Operation('handshake')))

    def add(self, connection: Connection, timing: HandshakeTiming = NOT_TIMED) -> None:
        """Add an accepted connection to the hub. This ends the handshake.

        After an error the connection is released; the caller closes its transport.

        Args:
            connection: The connection.
            timing: Timing of its handshake; default none.

        Raises:
            falcon.HTTPServiceUnavailable: The process has become full or has begun to
                drain, or the client has left.
        """
        with timing:
            try:
                self.check_capacity(connection.req)
                self._hub.add(connection)
            except ClosedError as ex:
                self._hub.remove(connection)
                raise self._unavailable(
                    connection.req, str(ex), logging.INFO, _REFUSED, ex
                ) from None
            except BaseException:
                self._hub.remove(connection)
                raise
        timing.end(type(connection).__name__)

    def check_capacity(self, req: falcon.Request | None) -> None:
        """Refuse a connection beyond `NodeOptions.max_connections`.

        Args:
            req: Request for the connection, or ``None`` if there is none.

        Raises:
            falcon.HTTPServiceUnavailable: The limit is reached.
        """
        limit = self._options.max_connections
        if limit is not None and len(self._hub.connections) >= limit:
            raise self._unavailable(
                req,
                f'the limit of {limit} connections is reached',
                self._level_of_limit(),
                'connections are refused: max_connections of %d is reached (logged at '
                'most once a minute)',
                limit,
            )

    def _unavailable(
        self,
        req: falcon.Request | None,
        reason: str,
        level: int,
        message: str,
        *args: object,
    ) -> falcon.HTTPServiceUnavailable:
        """Log and tell a refusal, and return its error."""
        self._refuse(req, 503, reason, level, message, *args)
        return falcon.HTTPServiceUnavailable(
            description=reason, retry_after=_RETRY_AFTER_S
        )

    def _refuse(
        self,
        req: falcon.Request | None,
        status: int,
        reason: str,
        level: int,
        message: str,
        *args: object,
    ) -> None:
        """Log and tell a refusal."""
        event = refused_connection('' if req is None else req.path, status, reason)
        log_event(event, level, message, *args)
        self._hub.events.tell(event)

    def _level_of_limit(self) -> int:
        """Return WARNING at most once a minute, because refused clients try again."""
        now_s = time.monotonic()
        if now_s < self._log_limit_at_s:
            return logging.DEBUG
        self._log_limit_at_s = now_s + _LOG_LIMIT_EVERY_S
        return logging.WARNING

    def note_invalid(self, req: falcon.Request, error: falcon.HTTPError) -> None:
        """Log and tell that a request was refused because it is not valid.

        NOTE: browsers hide the reason from the page, and Falcon logs only the status.

        Args:
            req: The request.
            error: The error, with the reason and the status.
        """
        reason = text_for_client(error)
        self._refuse(req, error.status_code, reason, logging.INFO, _REFUSED, reason)

    def check_origin(self, req: falcon.Request) -> None:
        """Refuse a request that a page of another site sent.

        Raises:
            falcon.HTTPForbidden: The origin is neither the server's own nor allowed.
            falcon.HTTPBadRequest: The Host header cannot be trusted.
        """
        if not self._warned_of_start and isinstance(req, falcon.asgi.Request):
            self._warned_of_start = True
            if not self._is_started_by_app():
                _logger.warning(_NOT_STARTED)
        reason = request_origin_error(req, self._options.allowed_origins)
        if reason is not None:
            event = log_refusal(req.path, reason)
            self._hub.events.tell(event)
            if event.code == 400:
                raise falcon.HTTPBadRequest(description=reason)
            raise falcon.HTTPForbidden(description=reason)
        # SECURITY: a link on another site makes a browser send a GET request with the
        #   user's `SameSite=Lax` cookies and without an Origin header. `Sec-Fetch-Site`
        #   shows that the request comes from another site.
        if '*' in self._options.allowed_origins or req.get_header('Origin') is not None:
            return
        site = req.get_header('Sec-Fetch-Site')
        if site in _OTHER_SITES:
            reason = f'the request comes from another site (Sec-Fetch-Site: {site})'
            self._hub.events.tell(log_refusal(req.path, reason))
            raise falcon.HTTPForbidden(description=reason)
