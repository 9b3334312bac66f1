"""The states of a connection, in the order in which they come.

CONNECTING: the application decides. OPEN. CLOSING: our close frame is out, the peer's
is awaited. LINGERING: nothing more is said; what arrives is discarded until the peer
hangs up, or else a reset could destroy our last words on their way. CLOSED.
"""

from __future__ import annotations

CONNECTING = 0
OPEN = 1
CLOSING = 2
LINGERING = 3
CLOSED = 4
