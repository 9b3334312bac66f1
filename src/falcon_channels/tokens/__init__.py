"""JSON Web Tokens that identify a client and allow subscriptions.

An application that identifies its users by an HTTP session needs no tokens, because the
handshake carries the cookie. Tokens are for clients that another service identifies.

* A *connection token* has ``sub`` (the user's id, ``''`` for an anonymous user) and
  ``exp``. It may have ``info`` (public), ``meta`` (only for the server), ``channels``
  and ``subs`` (server-side subscriptions), and ``expire_at``.
* An item of ``subs`` may have ``info``, ``data`` and ``server_tags_filter``.
* A *subscription token* has ``sub``, ``channel`` and ``exp``. It may have ``info``,
  ``expire_at`` and ``server_tags_filter``.

Times are Unix times in seconds.

SECURITY: an attacker controls the header of a forged token. ``kid`` only selects among
the keys that the application gives. A key or the URL of a key in a header is ignored.
Claims are decoded strictly: a time must be a number, not text that looks like one.
"""

from falcon_channels.tokens.keys import Algorithm
from falcon_channels.tokens.keys import TokenKey
from falcon_channels.tokens.remote import RemoteKeySet
from falcon_channels.tokens.signing import make_connection_token
from falcon_channels.tokens.signing import make_subscription_token
from falcon_channels.tokens.verifier import ConnectionToken
from falcon_channels.tokens.verifier import SubscriptionToken
from falcon_channels.tokens.verifier import TokenSubscription
from falcon_channels.tokens.verifier import TokenVerifier

__all__ = [
    'Algorithm',
    'ConnectionToken',
    'RemoteKeySet',
    'SubscriptionToken',
    'TokenKey',
    'TokenSubscription',
    'TokenVerifier',
    'make_connection_token',
    'make_subscription_token',
]
