"""``falcon-channels info``."""

from __future__ import annotations

import argparse

from falcon_channels.commands import client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    client.add_api_arguments(parser)


def info(args: argparse.Namespace) -> int:
    """Print the processes that share the broker, one per line."""
    return client.run(lambda: _info(args))


def _info(args: argparse.Namespace) -> None:
    nodes = client.ApiClient(args).call('info')['nodes']
    for node in sorted(nodes, key=lambda node: node['name']):
        client.show(node)
