"""The broker for many hosts on PostgreSQL, also in the application's transactions."""

from falcon_channels.brokers.postgres.broker import PostgresBroker
from falcon_channels.brokers.postgres.migration import migrate

__all__ = ['PostgresBroker', 'migrate']
