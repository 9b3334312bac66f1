"""The processes that share a broker."""
