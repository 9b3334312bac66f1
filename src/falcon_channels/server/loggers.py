"""Loggers of the server classes."""

from __future__ import annotations

import logging

#: Logger of the protocol core.
#: SECURITY: At DEBUG the core logs headers and payloads, which hold secrets. It
#: therefore has a logger of its own, which logs warnings and errors only.
core_logger = logging.getLogger('falcon_channels.server.websockets')
core_logger.setLevel(logging.WARNING)

#: uvicorn's logger for errors and for the life of the server.
server_logger = logging.getLogger('uvicorn.error')

#: uvicorn's logger for requests.
access_logger = logging.getLogger('uvicorn.access')
