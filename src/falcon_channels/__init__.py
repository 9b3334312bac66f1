"""Real-time for the Falcon web framework."""
