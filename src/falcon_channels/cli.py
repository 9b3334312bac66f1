"""The command ``falcon-channels``: finds the subcommand, and nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import importlib
import sys

_API = 'falcon_channels.commands'

#: The extras of those that need some.
_EXTRAS = {'serve': 'server', 'migrate': 'postgres', 'chat': 'chat'}

#: Subcommand: the module that has `add_arguments` and a function of the same name,
#: and what it does. Modules are imported when used, for each needs its own extras.
_COMMANDS = {
    'serve': ('falcon_channels.server.command', 'serve an ASGI application'),
    'publish': (f'{_API}.publish', 'publish to a channel'),
    'history': (f'{_API}.history', 'print what a channel keeps'),
    'tail': (f'{_API}.tail', 'print a channel as it is published to'),
    'presence': (f'{_API}.presence', 'print who is in a channel'),
    'channels': (f'{_API}.channels', 'print channels with subscribers'),
    'token': (f'{_API}.token', 'make a token for a user'),
    'migrate': (
        'falcon_channels.brokers.postgres.command',
        'make or renew the tables of the PostgreSQL broker',
    ),
    'chat': ('falcon_channels_chat.serving', 'serve a chat application'),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: The words after the program's name; the process's own by default.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog='falcon-channels', description='Real-time for the Falcon web framework.'
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, (_, summary) in _COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    name = parser.parse_args(words[:1]).command
    module_name, summary = _COMMANDS[name]
    try:
        module = importlib.import_module(module_name)
    except ImportError as ex:
        print(  # noqa: T201 - a command talks to its user
            f'falcon-channels {name} needs more packages ({ex}): '
            f"pip install 'falcon-channels[{_EXTRAS.get(name, 'all')}]'",
            file=sys.stderr,
        )
        return 1
    subparser = argparse.ArgumentParser(
        prog=f'falcon-channels {name}',
        description=summary,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    module.add_arguments(subparser)
    code: int = getattr(module, name)(subparser.parse_args(words[1:]))
    return code
