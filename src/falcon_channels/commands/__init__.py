"""Subcommands that speak to a running app over its server API; one module each."""
