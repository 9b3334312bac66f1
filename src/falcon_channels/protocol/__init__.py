"""The client protocol: bytes in, values out, no input or output of its own."""
