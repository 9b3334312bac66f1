"""Loggers for the protocol core, which must not log what users write."""

from __future__ import annotations

import logging


def quiet_logger(name: str) -> logging.Logger:
    """Return a logger that logs warnings and errors, unless it has a level of its own.

    SECURITY: at DEBUG, the core logs headers and payloads, which hold secrets. The
    level is set here, and not inherited from `falcon_channels`. The filter is needed
    too, because `logging.config` removes the levels of all loggers below those that a
    configuration names.

    Args:
        name: Name of the logger.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.WARNING)

    def is_wanted(record: logging.LogRecord) -> bool:
        return logger.level != logging.NOTSET or record.levelno >= logging.WARNING

    logger.addFilter(is_wanted)
    return logger
