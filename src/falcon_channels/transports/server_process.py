"""What the server of this package tells the application about its processes."""

from __future__ import annotations

#: Number of processes that serve the application. One object per process, because an
#: application may never see the lifespan of the server.
_workers = 1


def announce_workers(count: int) -> None:
    """Store the number of processes that serve the application.

    Called by the server in each process, before it imports the application.
    """
    global _workers
    _workers = count


def worker_count() -> int:
    """Return the number of processes; 1 on servers that do not announce it."""
    return _workers
