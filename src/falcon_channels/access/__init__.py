"""Who may do what: the only place that admits, subscribes and publishes for clients."""
