"""Channels for synchronous code: one thread with an event loop, and calls into it."""

from falcon_channels.portal.portal import Portal

__all__ = ['Portal']
