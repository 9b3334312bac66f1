"""The broker for many hosts on Redis or Valkey."""

from falcon_channels.brokers.redis.broker import RedisBroker

__all__ = ['RedisBroker']
