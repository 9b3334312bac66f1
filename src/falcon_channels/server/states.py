"""States of a connection, in the order in which they come.

* CONNECTING: The application decides about the handshake.
* OPEN: Messages are sent and received.
* CLOSING: Our close frame is sent, and the peer's close frame is awaited.
* LINGERING: Nothing more is written. Arriving bytes are discarded until the peer closes
  the TCP connection. Otherwise a TCP reset could destroy our last frames on their way.
* CLOSED: The TCP connection has ended.
"""

from __future__ import annotations

CONNECTING = 0
OPEN = 1
CLOSING = 2
LINGERING = 3
CLOSED = 4
