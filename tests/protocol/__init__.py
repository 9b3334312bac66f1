"""The pure part of the client protocol."""
