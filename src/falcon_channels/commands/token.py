"""``falcon-channels token ann``: makes a token, without a request to a server."""

from __future__ import annotations

import argparse
from pathlib import Path

from falcon_channels.commands import client
from falcon_channels.errors import ExtraMissingError
from falcon_channels.errors import InvalidValueError
from falcon_channels.errors import OptionsError
from falcon_channels.tokens import make_connection_token
from falcon_channels.tokens import make_subscription_token
from falcon_channels.tokens import TokenKey

SECRET_VARIABLE = 'FALCON_CHANNELS_TOKEN_SECRET'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('user', help="id of the user; '' for an anonymous user")
    parser.add_argument('--channel', help='make a token to subscribe to this channel')
    parser.add_argument(
        '--ttl-s',
        type=client.duration,
        default=600.0,
        help='seconds until the token expires',
    )
    parser.add_argument('--info', metavar='JSON', help='public data about the user')
    parser.add_argument('--issuer', default='', help="the claim 'iss'")
    parser.add_argument('--audience', help="the claim 'aud'")
    parser.add_argument(
        '--secret-file',
        type=Path,
        metavar='FILE',
        help=f'file with the secret for HS256, instead of the environment variable '
        f'{SECRET_VARIABLE}',
    )


def token(args: argparse.Namespace) -> int:
    """Print a token; return the exit code."""
    return client.run(lambda: _token(args))


def _token(args: argparse.Namespace) -> None:
    secret = client.read_secret(SECRET_VARIABLE, args.secret_file, '--secret-file')
    info = None if args.info is None else client.parse_json(args.info, '--info')
    if args.channel == '':
        # NOTE: it is often a variable that a script did not set.
        raise client.CommandError(
            'the channel is empty: give its name, or leave out --channel for a token '
            'that connects'
        )
    claims = {} if args.audience is None else {'aud': args.audience}
    try:
        key = TokenKey(secret, issuer=args.issuer)
        if args.channel is None:
            made = make_connection_token(
                key, args.user, ttl_s=args.ttl_s, info=info, **claims
            )
        else:
            made = make_subscription_token(
                key, args.user, args.channel, ttl_s=args.ttl_s, info=info, **claims
            )
    except UnicodeEncodeError:
        raise client.CommandError('an argument is not UTF-8') from None
    except (OptionsError, ExtraMissingError, InvalidValueError) as ex:
        raise client.CommandError(str(ex)) from None
    client.show_line(made)
