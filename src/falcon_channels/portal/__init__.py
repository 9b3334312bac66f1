"""Channels for synchronous code: calls into an event loop in a background thread."""

from falcon_channels.portal.portal import Portal

__all__ = ['Portal']
