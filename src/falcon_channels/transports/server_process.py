"""Tells the application how many processes of our server serve it."""

from __future__ import annotations

#: Number of processes that serve the application. It is a global, because an
#: application may not receive the lifespan of the server.
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
