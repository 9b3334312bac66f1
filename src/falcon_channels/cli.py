"""The command ``falcon-channels``: finds and runs a subcommand."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from collections.abc import Sequence
import importlib
from importlib.metadata import version
import sys

#: Exit code after Ctrl-C: 128 + SIGINT, as in shells.
_INTERRUPTED = 130

_API = 'falcon_channels.commands'

#: The extra that a subcommand needs; a subcommand that is not listed needs ``all``.
_EXTRAS = {'serve': 'server', 'chat': 'chat'}

#: Module and summary of each subcommand. The module has `add_arguments` and a function
#: with the subcommand's name. It is imported only when it is used, because each
#: subcommand needs its own extras.
_COMMANDS = {
    'new': (f'{_API}.new', 'create a small app in a new folder'),
    'serve': ('falcon_channels.server.command', 'serve an ASGI application'),
    'publish': (f'{_API}.publish', 'publish to a channel'),
    'broadcast': (f'{_API}.broadcast', 'publish the same data to several channels'),
    'finish': (f'{_API}.finish', 'end a channel'),
    'history': (f'{_API}.history', 'print the history of a channel'),
    'tail': (f'{_API}.tail', 'print publications of a channel as they arrive'),
    'presence': (f'{_API}.presence', 'print the presence of a channel'),
    'explain': (f'{_API}.explain', 'explain what happened to a publication for a user'),
    'channels': (f'{_API}.channels', 'print the channels that have subscribers'),
    'info': (f'{_API}.info', 'print the processes that share the broker'),
    'connections': (f'{_API}.connections', 'print the connections of all processes'),
    'inspect': (f'{_API}.inspect', 'open the inspector of a running app'),
    'disconnect': (f'{_API}.disconnect', 'close connections of a user'),
    'unsubscribe': (
        f'{_API}.unsubscribe',
        'end subscriptions of a user to a channel',
    ),
    'revoke': (
        f'{_API}.revoke',
        'end subscriptions of a user to a channel, and refuse new ones',
    ),
    'restore': (f'{_API}.restore', 'undo a revocation'),
    'token': (f'{_API}.token', 'create a token for a user'),
    'migrate': (
        f'{_API}.migrate',
        'create or update the tables of the PostgreSQL broker',
    ),
    'chat': ('falcon_channels_chat.serving', 'serve a chat application'),
}


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default value to the help of an argument, unless the value is empty.

    If the default is not a fixed value, the help itself ends with ``(default: ...)``.
    """

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: Arguments after the program's name; by default those of the process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog='falcon-channels', description='Real-time for the Falcon web framework.'
    )
    parser.add_argument(
        '--version', action='version', version=f'%(prog)s {version("falcon-channels")}'
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, (_, summary) in _COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    name = parser.parse_args(words[:1]).command
    module_name, summary = _COMMANDS[name]
    try:
        module = importlib.import_module(module_name)
    except ImportError as ex:
        print(  # noqa: T201 - output of a command
            f'falcon-channels {name} needs more packages ({ex}): '
            f"pip install 'falcon-channels[{_EXTRAS.get(name, 'all')}]'",
            file=sys.stderr,
        )
        return 1
    subparser = argparse.ArgumentParser(
        prog=f'falcon-channels {name}',
        description=summary,
        formatter_class=_HelpFormatter,
    )
    module.add_arguments(subparser)
    # NOTE: argparse has no public list of the options.
    options = subparser._option_string_actions
    args = subparser.parse_args(_join_values(words[1:], options))
    try:
        code: int = getattr(module, name)(args)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


def _join_values(
    words: Sequence[str], options: Mapping[str, argparse.Action]
) -> list[str]:
    """Return arguments in which a value that begins with ``-`` is part of its option.

    NOTE: an id of a connection, or an epoch, can begin with ``-``. argparse takes it
    for an option, and says that the value is missing. ``--client=-x`` is not ambiguous.

    Args:
        words: Arguments of the command.
        options: All options of the command, by name.
    """
    joined: list[str] = []
    for index, word in enumerate(words):
        if word == '--':
            return joined + list(words[index:])
        option = options.get(joined[-1]) if joined else None
        takes_value = option is not None and option.nargs is None
        # NOTE: argparse accepts the beginning of a name, and a value after `=`.
        name = word.partition('=')[0]
        is_option = any(known.startswith(name) for known in options)
        if takes_value and word.startswith('-') and not is_option:
            joined[-1] += f'={word}'
        else:
            joined.append(word)
    return joined
