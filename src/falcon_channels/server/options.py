"""Limits and deadlines of the WebSocket protocol class."""

from __future__ import annotations

from dataclasses import dataclass

from falcon_channels.websocket import limits


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Settings for which uvicorn's configuration has no field.

    The size of the largest message and the pings are settings of uvicorn:
    ``ws_max_size``, ``ws_ping_interval`` and ``ws_ping_timeout``.

    Attributes:
        open_timeout_s: Time from the upgrade request until the application accepts or
            denies. After this time, the client gets 503. Default: 30.
        first_message_timeout_s: Time from the accept until the client's first message.
            After this time, the connection is closed with 1008. ``None``, the default:
            no limit.
        close_timeout_s: Time for the closing handshake and for pending output. After
            this time, the TCP connection is aborted. Default: 10.
        body_timeout_s: Time in which at least 1 KiB of an unfinished HTTP request body
            must arrive. Otherwise, the client gets 408. ``None``: no limit.
            Default: 15.
        write_timeout_s: Time for which a client may read nothing while more output is
            pending than the transport's buffer takes. Then the TCP connection is
            aborted. Default: 30.
        unacknowledged_timeout_s: Time for which sent bytes may stay unacknowledged
            (``TCP_USER_TIMEOUT``). ``None`` means the kernel's default of many minutes.
            Default: 30.
        max_fragments: Maximum number of frames of one message. A message with more
            frames is refused with close code 1009. Default: 1024.
        max_queued_messages: Number of messages that may wait for the application before
            reading pauses. Default: 32.
        max_queued_bytes: Size of the messages that may wait for the application before
            reading pauses. Default: 65536.
        max_connections_per_peer: Maximum number of WebSockets in one process from one
            client address. Behind a trusted proxy, this is the address that the proxy
            forwards. Further handshakes get 429. ``None``, the default: no limit.
        deflate: Whether to negotiate permessage-deflate, without context takeover.
            Default: False.
        drain_batch: Number of connections that the server closes at once when it
            stops. Default: 100.
        drain_interval_s: Mean pause between two batches. Default: 0.25.
        drain_timeout_s: Maximum time for all batches. Batches become larger if needed.
            Default: 20.
        responder_timeout_s: Time for which a responder without a client may continue to
            run when the server stops. It begins when all connections are closed. After
            this time, the task is cancelled. Default: 10.
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
