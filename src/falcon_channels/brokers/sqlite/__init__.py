"""The broker for one host: a SQLite file that several processes share."""

from falcon_channels.brokers.sqlite.broker import SqliteBroker

__all__ = ['SqliteBroker']
