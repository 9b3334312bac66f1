"""The endpoint of the client protocol, over the wire."""
