"""Serve the chat: ``falcon-channels chat``."""

from __future__ import annotations

from argparse import ArgumentParser
from argparse import Namespace
from argparse import SUPPRESS
from collections.abc import Sequence
import os
import sys

import falcon

from falcon_channels import cli
from falcon_channels_chat.app import App
from falcon_channels_chat.app import create_app
from falcon_channels_chat.sessions import Signer
from falcon_channels_chat.settings import Settings
from falcon_channels_chat.store import Store
from falcon_channels_chat.words import person_name


def app() -> App:
    """Return the chat as the environment describes it; a factory for any ASGI server.

    ::

        falcon-channels serve --factory falcon_channels_chat.serving:app
    """
    return create_app(Settings.from_environ(os.environ))


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--host', default='127.0.0.1', help='address')
    parser.add_argument('--port', type=int, default=8000, help='TCP port')
    parser.add_argument('--workers', type=int, default=1, help='processes')
    parser.add_argument(
        '--database',
        metavar='FILE',
        default=SUPPRESS,
        help='messages and images (CHAT_DATABASE, or chat.db)',
    )
    parser.add_argument(
        '--broker',
        metavar='URL',
        default=SUPPRESS,
        help='where the channels live (CHAT_BROKER, or sqlite:///chat-channels.db)',
    )
    parser.add_argument(
        '--bot-key',
        metavar='NAME',
        default=SUPPRESS,
        help='print a key with which a bot of this name can post, and serve nothing',
    )


def chat(args: Namespace, factory: str = 'falcon_channels_chat.serving:app') -> int:
    """Serve the chat until it is told to stop; return the exit code.

    Args:
        args: Of `add_arguments`.
        factory: Import string of a function that returns the chat.
    """
    # NOTE: worker processes read the environment, too.
    for name in ('database', 'broker'):
        if hasattr(args, name):
            os.environ[f'CHAT_{name.upper()}'] = getattr(args, name)
    # SECURITY: what people say to each other is for no other account of this host.
    os.umask(0o077)
    try:
        settings = Settings.from_environ(os.environ)
        if args.workers > 1 and settings.broker.startswith('memory:'):
            raise ValueError('several workers need a broker that they share')
        if hasattr(args, 'bot_key'):
            name = person_name(args.bot_key)
            signer = Signer(settings.secret or Store(settings.database).secret())
            sys.stdout.write(f'{signer.bot_key(name)}\n')
            return 0
    except (ValueError, falcon.HTTPError) as ex:
        sys.stderr.write(f'chat: {getattr(ex, "description", None) or ex}\n')
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
            '--log-level=warning',
            '--no-access-log',
        ]
    )


def main(
    words: Sequence[str] | None = None,
    factory: str = 'falcon_channels_chat.serving:app',
) -> int:
    """Do what ``falcon-channels chat`` does."""
    parser = ArgumentParser(description='Serve a chat application.')
    add_arguments(parser)
    return chat(parser.parse_args(words), factory)
