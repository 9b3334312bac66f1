"""Cancels the task of a stream's block when the stream is aborted."""

from __future__ import annotations

import asyncio
from typing import Any


class BlockTask:
    """Cancels the task of an ``async with`` block, and takes the cancellation back.

    Call `enter` at the beginning of the block, and `take_back` at its end.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        #: Number of cancellations by other code when the block began.
        self._cancelling = 0
        self._cancelled = False

    def enter(self) -> None:
        """Remember the current task; later calls of `cancel` cancel it."""
        self._task = asyncio.current_task()
        if self._task is not None:
            self._cancelling = self._task.cancelling()

    def cancel(self) -> None:
        """Cancel the task, unless it calls this itself, or its block has ended."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._cancelled = True
            self._task.cancel()

    def take_back(self, error: BaseException | None) -> bool:
        """Undo the cancellation that `cancel` requested; the block has ended.

        `asyncio.timeout` does the same. If other code has cancelled the task, too, it
        stays cancelled.

        Args:
            error: The exception that ended the block, or ``None``.

        Returns:
            Whether the block was ended by `cancel` alone.
        """
        task, self._task = self._task, None
        if not self._cancelled or task is None:
            return False
        is_cancelled_by_others = task.uncancel() > self._cancelling
        return isinstance(error, asyncio.CancelledError) and not is_cancelled_by_others
