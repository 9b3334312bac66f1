"""The broker of many hosts on PostgreSQL, inside the application's transactions."""

from falcon_channels.brokers.postgres.broker import PostgresBroker
from falcon_channels.brokers.postgres.migration import migrate

__all__ = ['PostgresBroker', 'migrate']
