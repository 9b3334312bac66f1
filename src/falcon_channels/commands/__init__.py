"""Subcommands, one module each; most of them call the server API of a running app."""
