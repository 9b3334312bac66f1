"""Transports: how bytes reach one connection."""
