"""Limits and deadlines of the WebSocket protocol class."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What uvicorn's own configuration has no field for.

    The largest message and the pings are uvicorn's: ``ws_max_size``,
    ``ws_ping_interval`` and ``ws_ping_timeout``.

    Attributes:
        open_timeout_s: From the upgrade request until the application has accepted or
            denied; then the client gets 503.
        first_message_timeout_s: From the accept until the first message of the
            client; then close 1008. ``None``: clients may be silent for ever.
        close_timeout_s: For the closing handshake and for what is still to be written;
            then the link is cut.
        write_timeout_s: How long a client may take nothing while more than the
            transport's buffer waits for it; then the link is cut.
        unacknowledged_timeout_s: ``TCP_USER_TIMEOUT``: how long sent bytes may stay
            unacknowledged; ``None`` leaves the kernel's default of many minutes.
        max_fragments: Most frames of one message; one more is answered with 1009.
        max_queued_messages: Messages that may wait for the application before reading
            stops.
        max_queued_bytes: The same in bytes.
        max_connections_per_peer: Most WebSockets in one process from one client's
            address, which behind a trusted proxy is the one that it forwards; more
            get 429. ``None``: no limit.
        deflate: Whether to negotiate permessage-deflate, without context takeover.
        drain_batch: Connections closed at once when the server stops.
        drain_interval_s: Mean pause between two batches.
        drain_timeout_s: Longest time for all batches; they grow to keep it.
    """

    open_timeout_s: float = 30.0
    first_message_timeout_s: float | None = None
    close_timeout_s: float = 10.0
    write_timeout_s: float = 30.0
    unacknowledged_timeout_s: float | None = 30.0
    max_fragments: int = 1024
    max_queued_messages: int = 32
    max_queued_bytes: int = 65536
    max_connections_per_peer: int | None = None
    deflate: bool = False
    drain_batch: int = 100
    drain_interval_s: float = 0.25
    drain_timeout_s: float = 20.0
