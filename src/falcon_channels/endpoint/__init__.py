"""Clients with an official SDK: the client protocol."""
