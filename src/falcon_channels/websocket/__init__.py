"""WebSocket rules that the ASGI server classes and the WSGI app share (RFC 6455)."""
