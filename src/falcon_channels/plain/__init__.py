"""Clients without a library: plain WebSockets."""
