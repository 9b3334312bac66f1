"""Clients without an SDK."""
