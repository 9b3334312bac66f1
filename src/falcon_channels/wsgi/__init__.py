"""WebSockets for synchronous Falcon apps, under gunicorn, gevent and other servers."""

from falcon_channels.wsgi.app import App
from falcon_channels.wsgi.errors import WebSocketError
from falcon_channels.wsgi.options import WebSocketOptions
from falcon_channels.wsgi.websocket import WebSocket

__all__ = ['App', 'WebSocket', 'WebSocketError', 'WebSocketOptions']
