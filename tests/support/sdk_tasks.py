"""Waits for what the Python SDK does in the background."""

from __future__ import annotations

import asyncio


async def finish_tasks() -> None:
    """Wait until all other tasks have ended, before the event loop ends.

    The SDK closes its connections in tasks of their own. A loop that ends before them
    leaves sockets open, which a later test would report.
    """
    async with asyncio.timeout(20):
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
