"""Brokers: where publications are ordered, stored and carried between processes."""
