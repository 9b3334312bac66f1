"""``falcon-channels info``."""

from __future__ import annotations

import argparse

import msgspec

from falcon_channels.commands import client


class _Node(msgspec.Struct):
    name: str


class _Answer(msgspec.Struct):
    nodes: list[_Node]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    client.add_api_arguments(parser)


def info(args: argparse.Namespace) -> int:
    """Print the processes that share the broker, one per line."""
    return client.run(lambda: _info(args))


def _info(args: argparse.Namespace) -> None:
    nodes = client.ApiClient(args).call('info', _Answer)['nodes']
    for node in sorted(nodes, key=lambda node: node['name']):
        client.show(node)
