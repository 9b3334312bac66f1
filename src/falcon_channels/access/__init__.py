"""Access: the only code that admits, subscribes and publishes for clients."""
