"""The command ``falcon-channels chat``, which serves the chat."""

from __future__ import annotations

from argparse import ArgumentParser
from argparse import Namespace
from argparse import SUPPRESS
from collections.abc import Sequence
import os
import sys

import falcon

from falcon_channels import cli
from falcon_channels_chat import page
from falcon_channels_chat.app import App
from falcon_channels_chat.app import create_app
from falcon_channels_chat.sessions import Signer
from falcon_channels_chat.settings import Settings
from falcon_channels_chat.store import Store
from falcon_channels_chat.validation import valid_person_name


def app() -> App:
    """Return the chat, with settings from the environment.

    Any ASGI server can use it as a factory::

        falcon-channels serve --factory falcon_channels_chat.serving:app
    """
    return create_app(Settings.from_environ(os.environ))


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument('--host', default='127.0.0.1', help='address to listen on')
    parser.add_argument('--port', type=int, default=8000, help='TCP port')
    parser.add_argument('--workers', type=int, default=1, help='number of processes')
    parser.add_argument(
        '--database',
        metavar='FILE',
        default=SUPPRESS,
        help='file for messages and images (default: CHAT_DATABASE, or chat.db)',
    )
    parser.add_argument(
        '--broker',
        metavar='URL',
        default=SUPPRESS,
        help='broker (default: CHAT_BROKER, or sqlite:///chat-channels.db)',
    )
    parser.add_argument(
        '--log-json',
        action='store_true',
        help='print the log as JSON, one line each, with the events of clients',
    )
    parser.add_argument(
        '--bot-key',
        metavar='NAME',
        default=SUPPRESS,
        help='print an API key for a bot with this name, and exit',
    )


def chat(args: Namespace, factory: str = 'falcon_channels_chat.serving:app') -> int:
    """Serve the chat until it receives a signal to stop.

    Args:
        args: Parsed arguments, declared by `add_arguments`.
        factory: Import string of a function that returns the chat.

    Returns:
        The exit code of the process.
    """
    # NOTE: the arguments go into the environment because worker processes read their
    #   settings from there.
    for name in ('database', 'broker'):
        if hasattr(args, name):
            os.environ[f'CHAT_{name.upper()}'] = getattr(args, name)
    # SECURITY: another account of this host could read the files of the chat. Only
    #   the owner gets access to new files.
    os.umask(0o077)
    try:
        settings = Settings.from_environ(os.environ)
        if args.workers > 1 and settings.broker.startswith('memory:'):
            raise ValueError(
                f'{args.workers} workers need a broker that they share, '
                'such as sqlite:///chat-channels.db'
            )
        if hasattr(args, 'bot_key'):
            name = valid_person_name(args.bot_key)
            signer = Signer(settings.secret or Store(settings.database).secret())
            sys.stdout.write(f'{signer.bot_key(name)}\n')
            return 0
    except (ValueError, falcon.HTTPError) as ex:
        sys.stderr.write(f'chat: {getattr(ex, "description", None) or ex}\n')
        return 2
    if not page.is_built():
        sys.stderr.write(f'chat: {page.NOT_BUILT}\n')
        return 2
    host = 'localhost' if args.host in ('127.0.0.1', '0.0.0.0', '::') else args.host
    sys.stdout.write(f'Chat: http://{host}:{args.port}/\n')
    sys.stdout.flush()
    return cli.main(
        [
            'serve',
            '--factory',
            factory,
            f'--host={args.host}',
            f'--port={args.port}',
            f'--workers={args.workers}',
            '--no-access-log',
            '--log-json' if args.log_json else '--log-level=warning',
        ]
    )


def main(
    arguments: Sequence[str] | None = None,
    factory: str = 'falcon_channels_chat.serving:app',
) -> int:
    """Run ``falcon-channels chat``; return the exit code.

    Args:
        arguments: Command-line arguments; those of the process if ``None``.
        factory: Import string of a function that returns the chat.
    """
    parser = ArgumentParser(description='Serve a chat application.')
    add_arguments(parser)
    return chat(parser.parse_args(arguments), factory)
