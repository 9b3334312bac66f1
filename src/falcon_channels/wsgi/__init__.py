"""WebSockets for synchronous Falcon apps, whatever the WSGI server."""
