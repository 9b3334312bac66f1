"""Channels for synchronous code: calls into an event loop in a background thread."""

from falcon_channels.portal.portal import Portal
from falcon_channels.portal.stream import BlockingStream

__all__ = ['BlockingStream', 'Portal']
