"""Real-time for the Falcon web framework."""

from falcon_channels.origin import OriginCheck

__all__ = ['OriginCheck']
