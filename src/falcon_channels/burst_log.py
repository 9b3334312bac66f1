"""Logs the first of many similar warnings, so that one failure is logged once."""

from __future__ import annotations

import asyncio
import logging

_logger = logging.getLogger('falcon_channels')


class BurstLog:
    """Logs the first warning of a burst; the others become debug messages.

    Args:
        quiet_s: Seconds without a warning after which a burst has ended.
    """

    def __init__(self, quiet_s: float = 30.0) -> None:
        self._quiet_s = quiet_s
        self._last_s: float | None = None

    def warning(self, message: str, *arguments: object) -> None:
        """Log a message; call this in the event loop.

        Args:
            message: The message, with a placeholder for each argument.
            arguments: The arguments of the message.
        """
        now_s = asyncio.get_running_loop().time()
        last_s, self._last_s = self._last_s, now_s
        begins = last_s is None or now_s - last_s > self._quiet_s
        _logger.log(logging.WARNING if begins else logging.DEBUG, message, *arguments)
