"""A warning about servers on other hosts that are used without a password."""

from __future__ import annotations

import ipaddress
import logging

_logger = logging.getLogger('falcon_channels')


def warn_without_password(kind: str, host: str, address: str) -> None:
    """Log a warning, unless the server is on this host.

    Args:
        kind: Kind of the server, such as ``Redis``.
        host: Name or IP address of the server; empty for this host.
        address: The address that the log message shows.
    """
    if is_loopback(host):
        return
    # SECURITY: without a password, anyone who reaches the server can read and write
    #   every channel. The message shows the address only, because the URL may contain
    #   other secrets.
    _logger.warning(
        'the %s server at %s is used without a password: anyone who can connect to it '
        'may be able to read and write every channel',
        kind,
        address,
    )


def is_loopback(host: str) -> bool:
    """Return whether a name or address is known to be this host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ('', 'localhost')
