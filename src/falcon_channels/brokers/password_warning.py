"""Servers that anybody in the network could use."""

from __future__ import annotations

import ipaddress
import logging

_logger = logging.getLogger('falcon_channels')


def warn_without_password(kind: str, host: str, where: str) -> None:
    """Log a warning that a server is used without a password, but not on this host.

    Args:
        kind: What it is.
        host: Its name or address; empty for this host.
        where: How to call it in the log.
    """
    if is_loopback(host):
        return
    # SECURITY: says where, and nothing else of the URL.
    _logger.warning(
        'the %s server at %s is used without a password: whoever reaches it can '
        'perhaps read and write every channel',
        kind,
        where,
    )


def is_loopback(host: str) -> bool:
    """Return whether a host is this one, as far as its name says."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ('', 'localhost')
