"""Connections, subscriptions and channels of this process."""
