"""Clients with an official SDK: the client protocol over WebSockets and HTTP."""
