"""Limits and deadlines of the server."""

from __future__ import annotations

from dataclasses import dataclass

from falcon_channels.checks import check_number
from falcon_channels.checks import check_seconds
from falcon_channels.checks import check_type
from falcon_channels.websocket import limits


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Settings for which uvicorn's configuration has no field.

    The size of the largest message and the pings are settings of uvicorn:
    ``ws_max_size``, ``ws_ping_interval`` and ``ws_ping_timeout``.

    Attributes:
        open_timeout_s: Time from the upgrade request until the application accepts or
            denies (default 30). After this time, the client gets 503.
        first_message_timeout_s: Time from the accept until the client's first message.
            After this time, the connection is closed with 1008. ``None``, the default:
            no limit.
        close_timeout_s: Time for the closing handshake and for pending output (default
            10). After this time, the TCP connection is aborted.
        body_timeout_s: Time in which at least 1 KiB of an unfinished HTTP request body
            must arrive (default 15), or ``None`` for no limit. Otherwise, the client
            gets 408.
        write_timeout_s: Time for which a client may read nothing while more output is
            pending than the transport's buffer takes (default 30). Then the TCP
            connection is aborted.
        unacknowledged_timeout_s: Time for which sent bytes may stay unacknowledged
            (``TCP_USER_TIMEOUT``; default 30), or ``None`` for the kernel's default of
            many minutes.
        max_fragments: Maximum number of frames of one message (default 1024). A message
            with more frames is refused with close code 1009.
        max_queued_messages: Number of messages that may wait for the application before
            reading pauses (default 32).
        max_queued_bytes: Size of the messages that may wait for the application before
            reading pauses, in bytes (default 65536).
        max_connections_per_peer: Maximum number of WebSockets in one process from one
            client address. Behind a trusted proxy, this is the address that the proxy
            forwards. Further handshakes get 429. ``None``, the default: no limit.
        deflate: Whether to negotiate permessage-deflate, without context takeover
            (default ``False``).
        drain_batch: Number of connections that the server closes at once when it stops
            (default 100).
        drain_interval_s: Mean pause between two batches (default 0.25).
        drain_timeout_s: Maximum time for all batches (default 20). Batches become
            larger if needed. 0 closes all connections at once.
        responder_timeout_s: Time for which a responder without a client may continue to
            run when the server stops (default 10). It begins when all connections are
            closed. After this time, the task is cancelled.

    Raises:
        OptionsError: A value has the wrong type, or is out of range.
    """

    open_timeout_s: float = 30.0
    first_message_timeout_s: float | None = None
    close_timeout_s: float = 10.0
    body_timeout_s: float | None = 15.0
    write_timeout_s: float = 30.0
    unacknowledged_timeout_s: float | None = 30.0
    max_fragments: int = limits.MAX_FRAGMENTS
    max_queued_messages: int = 32
    max_queued_bytes: int = 65536
    max_connections_per_peer: int | None = None
    deflate: bool = False
    drain_batch: int = 100
    drain_interval_s: float = 0.25
    drain_timeout_s: float = 20.0
    responder_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        for name in ('open_timeout_s', 'write_timeout_s'):
            check_seconds(name, getattr(self, name))
        for name in (
            'close_timeout_s',
            'drain_interval_s',
            'drain_timeout_s',
            'responder_timeout_s',
        ):
            check_seconds(name, getattr(self, name), zero=True)
        for name in (
            'first_message_timeout_s',
            'body_timeout_s',
            'unacknowledged_timeout_s',
        ):
            check_seconds(name, getattr(self, name), optional=True)
        for name in (
            'max_fragments',
            'max_queued_messages',
            'max_queued_bytes',
            'drain_batch',
        ):
            check_number(name, getattr(self, name), 1)
        name = 'max_connections_per_peer'
        check_number(name, getattr(self, name), 1, optional=True)
        check_type('deflate', self.deflate, bool)
