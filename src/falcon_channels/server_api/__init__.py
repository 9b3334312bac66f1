"""The server API: back ends publish, read and send commands over HTTP."""
