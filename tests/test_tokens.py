"""Tokens: claims of valid tokens, and attacks that are refused."""

from __future__ import annotations

import base64
from collections.abc import Callable
import hashlib
import hmac
import json
import subprocess
import sys
import time
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jwt
import pytest

from falcon_channels.errors import OptionsError
from falcon_channels.errors import TokenError
from falcon_channels.errors import TokenExpiredError
from falcon_channels.errors import TokenInvalidError
from falcon_channels.tokens import ConnectionToken
from falcon_channels.tokens import make_connection_token
from falcon_channels.tokens import make_subscription_token
from falcon_channels.tokens import SubscriptionToken
from falcon_channels.tokens import TokenKey
from falcon_channels.tokens import TokenSubscription
from falcon_channels.tokens import TokenVerifier

SECRET = 'a secret of more than thirty-two bytes'
OTHER_SECRET = 'another secret of more than thirty-two bytes'
NOW_S = 1_800_000_000
KEY = TokenKey(SECRET)


def pem(private: Any) -> tuple[bytes, bytes]:
    """Return a private key and its public half as PEM."""
    return (
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )


RSA_KEY = rsa.generate_private_key(65537, 2048)
RSA_PRIVATE, RSA_PUBLIC = pem(RSA_KEY)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
KEYS: dict[str, tuple[bytes, bytes]] = {
    'RS256': (RSA_PRIVATE, RSA_PUBLIC),
    'RS512': (RSA_PRIVATE, RSA_PUBLIC),
    'ES256': pem(EC_KEY),
    'ES384': pem(ec.generate_private_key(ec.SECP384R1())),
    'EdDSA': pem(ed25519.Ed25519PrivateKey.generate()),
}


def encode(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b'=').decode()


def forge(
    claims: object,
    header: object = None,
    secret: bytes = SECRET.encode(),
    digest: Callable[..., Any] = hashlib.sha256,
) -> str:
    """Return an HMAC token with anything in it, made without any library."""
    header = {'alg': 'HS256', 'typ': 'JWT'} if header is None else header
    text = f'{encode(header)}.{encode(claims)}'
    return f'{text}.{encode(hmac.new(secret, text.encode(), digest).digest())}'


GOOD = {'sub': 'ann', 'exp': NOW_S + 60}


def verify(token: str, verifier: TokenVerifier | None = None) -> ConnectionToken:
    verifier = verifier or TokenVerifier(KEY)
    return verifier.connection(token, now_s=NOW_S)


def test_connection_token_with_all_claims_is_read_completely() -> None:
    """Every claim of a connection token is read."""
    token = forge(
        {
            **GOOD,
            'info': {'name': 'Ann'},
            'meta': {'role': 'admin'},
            'channels': ['news', '#ann'],
            'subs': {'#ann': {'info': 1, 'data': {'a': []}}, 'x': {}},
            'iat': NOW_S,
            'nbf': NOW_S - 5,
            'jti': 'j',
            'unknown': 1,
        }
    )
    expected = ConnectionToken(
        user='ann',
        expires_at=NOW_S + 60,
        info={'name': 'Ann'},
        meta={'role': 'admin'},
        channels={
            'news': TokenSubscription(),
            '#ann': TokenSubscription(info=1, data={'a': []}),
            'x': TokenSubscription(),
        },
    )
    assert expected == verify(token)


def test_subscription_token_with_all_claims_is_read_completely() -> None:
    """Every claim of a subscription token is read."""
    token = forge({**GOOD, 'channel': 'news', 'info': [1], 'override': {}})
    assert SubscriptionToken('ann', 'news', NOW_S + 60, [1]) == (
        TokenVerifier(KEY).subscription(token, now_s=NOW_S)
    )


def test_claims_in_base64_are_decoded() -> None:
    """JSON in base64 is taken in the place of JSON."""
    value = base64.b64encode(b'{"a":1}').decode()
    token = verify(forge({**GOOD, 'b64info': value, 'subs': {'x': {'b64data': value}}}))
    assert {'a': 1} == token.info
    assert {'a': 1} == token.channels['x'].data
    for wrong in ('!', base64.b64encode(b'\xff').decode()):
        with pytest.raises(TokenInvalidError):
            verify(forge({**GOOD, 'b64info': wrong}))


@pytest.mark.parametrize(
    ('claims', 'expires_at'),
    [
        ({}, NOW_S + 60),
        ({'expire_at': NOW_S + 900}, NOW_S + 900),
        ({'expire_at': 0}, None),
    ],
)
def test_expire_at_overrides_exp(claims: Any, expires_at: Any) -> None:
    """A connection may live longer than its token, or for ever."""
    assert expires_at == verify(forge({**GOOD, **claims})).expires_at


def test_token_without_exp_is_refused_unless_allowed() -> None:
    """A token without exp is refused unless that is switched off."""
    token = forge({'sub': 'ann'})
    with pytest.raises(TokenInvalidError, match='no exp'):
        verify(token)
    verifier = TokenVerifier(KEY, require_exp=False)
    assert ConnectionToken('ann') == verify(token, verifier)


def test_token_without_sub_is_of_an_anonymous_user() -> None:
    """No sub is somebody anonymous."""
    assert '' == verify(forge({'exp': NOW_S + 60})).user


@pytest.mark.parametrize(
    ('exp', 'leeway_s', 'good'),
    [(1, 0, True), (0, 0, False), (-1, 0, False), (-4, 5, True), (-5, 5, False)],
)
def test_expired_token_raises_token_expired_error(
    exp: int, leeway_s: int, good: bool
) -> None:
    """An expired token is told apart from a forged one; leeway moves the moment."""
    verifier = TokenVerifier(KEY, leeway_s=leeway_s)
    token = forge({'sub': 'ann', 'exp': NOW_S + exp})
    if good:
        assert 'ann' == verify(token, verifier).user
    else:
        with pytest.raises(TokenExpiredError):
            verify(token, verifier)


@pytest.mark.parametrize('claim', ['iat', 'nbf'])
def test_token_of_a_clock_a_few_seconds_ahead_is_accepted(claim: str) -> None:
    """The clock of the service that makes tokens may be ahead by the leeway."""
    ahead = {'sub': 'ann', 'exp': NOW_S + 60, claim: NOW_S + 5}
    assert 'ann' == verify(forge(ahead)).user
    with pytest.raises(TokenInvalidError, match='not valid yet'):
        verify(forge({**ahead, claim: NOW_S + 6}))


@pytest.mark.parametrize('algorithm', KEYS)
def test_token_signed_with_each_kind_of_key_is_accepted(algorithm: Any) -> None:
    """A token made with a private key is verified with its public half."""
    private, public = KEYS[algorithm]
    token = make_connection_token(TokenKey(private, algorithm), 'ann')
    verifier = TokenVerifier(TokenKey(public, algorithm))
    assert 'ann' == verifier.connection(token).user
    with pytest.raises(OptionsError, match='cannot sign'):
        make_connection_token(TokenKey(public, algorithm), 'ann')


@pytest.mark.parametrize('algorithm', ['HS256', 'HS384', 'HS512'])
def test_token_signed_with_each_kind_of_secret_is_accepted(algorithm: Any) -> None:
    """Each HMAC works, and only with its own digest."""
    key = TokenKey('x' * 64, algorithm)
    token = make_subscription_token(key, 'ann', 'news', info=1)
    found = TokenVerifier(key).subscription(token)
    assert ('ann', 'news', 1) == (found.user, found.channel, found.info)
    for other in {'HS256', 'HS384', 'HS512'} - {algorithm}:
        with pytest.raises(TokenInvalidError):
            TokenVerifier(TokenKey('x' * 64, other)).subscription(token)  # type: ignore[arg-type]


def test_made_token_has_the_requested_claims() -> None:
    """The verifier reads the claims with which a token was made."""
    key = TokenKey(SECRET, kid='k1', issuer='me')
    token = make_connection_token(
        key, 'ann', ttl_s=None, info={'n': 1}, meta=[2], channels=['c'], expire_at=5
    )
    assert {'alg': 'HS256', 'typ': 'JWT', 'kid': 'k1'} == (
        jwt.get_unverified_header(token)
    )
    found = TokenVerifier(key, require_exp=False).connection(token)
    assert ConnectionToken('ann', 5, {'n': 1}, [2], {'c': TokenSubscription()}) == found
    short = make_connection_token(key, 'ann')
    expires_at = TokenVerifier(key).connection(short).expires_at
    assert expires_at is not None
    assert 0 < expires_at - time.time() <= 600


def test_tokens_of_the_old_and_the_new_key_are_accepted_during_rotation() -> None:
    """Both keys are taken while a key is being changed; the id picks one."""
    old, new = TokenKey(SECRET, kid='1'), TokenKey(OTHER_SECRET, kid='2')
    verifier = TokenVerifier([new, old])
    for key in (old, new):
        assert 'ann' == verifier.connection(make_connection_token(key, 'ann')).user
    gone = TokenVerifier([new])
    with pytest.raises(TokenInvalidError):
        gone.connection(make_connection_token(old, 'ann'))


def test_rotation_without_key_ids_tries_all_keys() -> None:
    """Keys without ids are tried one after the other."""
    verifier = TokenVerifier([TokenKey(OTHER_SECRET), KEY])
    assert 'ann' == verify(forge(GOOD), verifier).user
    header = {'alg': 'HS256', 'kid': 'whatever'}
    assert 'ann' == verify(forge(GOOD, header), verifier).user


def jwk(key: Any, **more: Any) -> dict[str, Any]:
    public = key.public_key()
    kind = (
        jwt.algorithms.RSAAlgorithm
        if isinstance(key, rsa.RSAPrivateKey)
        else jwt.algorithms.ECAlgorithm
    )
    return {**kind.to_jwk(public, as_dict=True), **more}


def test_key_set_of_an_issuer_verifies_its_tokens() -> None:
    """A static key set verifies its issuer's tokens, RSA and EC."""
    jwks = {
        'keys': [
            jwk(RSA_KEY, kid='r', use='sig'),
            jwk(EC_KEY, kid='e'),
            {'kty': 'RSA', 'use': 'enc'},
        ]
    }
    verifier = TokenVerifier.from_jwks(jwks, issuer='https://id.example')
    for private, algorithm, kid in (
        (RSA_PRIVATE, 'RS256', 'r'),
        (KEYS['ES256'][0], 'ES256', 'e'),
    ):
        key = TokenKey(private, algorithm, kid=kid, issuer='https://id.example')  # type: ignore[arg-type]
        assert 'ann' == verifier.connection(make_connection_token(key, 'ann')).user


def test_equal_key_ids_of_two_issuers_are_told_apart() -> None:
    """A key of one issuer cannot sign for another that has the same key id."""
    verifier = TokenVerifier(
        [
            TokenKey(SECRET, kid='1', issuer='good'),
            TokenKey(OTHER_SECRET, kid='1', issuer='evil'),
        ]
    )
    header = {'alg': 'HS256', 'kid': '1'}
    good = forge({**GOOD, 'iss': 'good'}, header)
    assert 'ann' == verify(good, verifier).user
    forged = forge({**GOOD, 'iss': 'good'}, header, OTHER_SECRET.encode())
    with pytest.raises(TokenInvalidError, match='another issuer'):
        verify(forged, verifier)


ISSUER_AND_AUDIENCE = TokenVerifier(KEY, issuer='me', audience='chat')


@pytest.mark.parametrize('aud', ['chat', ['mail', 'chat']])
def test_token_with_the_required_issuer_and_audience_is_accepted(aud: Any) -> None:
    """A token for us names us, alone or among others."""
    token = forge({**GOOD, 'iss': 'me', 'aud': aud})
    assert 'ann' == verify(token, ISSUER_AND_AUDIENCE).user


NESTED = b'[' * 30_000 + b']' * 30_000
NONE = f'{encode({"alg": "none"})}.{encode(GOOD)}.'
ATTACKS: dict[str, str] = {
    'empty': '',
    'one part': 'abc',
    'five parts': 'a.b.c.d.e',
    'not base64': '!.!.!',
    'alg none': NONE,
    'alg None with a signature': NONE.replace(
        encode({'alg': 'none'}), encode({'alg': 'None'})
    )
    + 'AAAA',
    'no alg': forge(GOOD, {'typ': 'JWT'}),
    'alg of another HMAC': forge(GOOD, {'alg': 'HS512'}, digest=hashlib.sha512),
    'alg a list': forge(GOOD, {'alg': ['HS256']}),
    'alg null': forge(GOOD, {'alg': None}),
    'header a list': forge(GOOD, ['HS256']),
    'another secret': forge(GOOD, secret=OTHER_SECRET.encode()),
    'empty secret': forge(GOOD, secret=b''),
    'no signature': forge(GOOD).rpartition('.')[0] + '.',
    'changed claims': '.'.join(
        (forge(GOOD).split('.')[0], encode({**GOOD, 'sub': 'bob'}), 'AAAA')
    ),
    'kid a path': forge(GOOD, {'alg': 'HS256', 'kid': '../../dev/null'}, secret=b''),
    'kid of SQL': forge(
        GOOD, {'alg': 'HS256', 'kid': "' UNION SELECT 'x"}, secret=b'x'
    ),
    'kid a number': forge(GOOD, {'alg': 'HS256', 'kid': 1}),
    'kid a list': forge(GOOD, {'alg': 'HS256', 'kid': []}),
    'key in the header': forge(
        GOOD,
        {'alg': 'HS256', 'jwk': {'kty': 'oct', 'k': encode(b'x')}},
        secret=b'x',
    ),
    'address of a key': forge(
        GOOD, {'alg': 'HS256', 'jku': 'http://127.0.0.1:9/'}, secret=b'x'
    ),
    'unknown crit': forge(GOOD, {'alg': 'HS256', 'crit': ['exp2'], 'exp2': 1}),
    'crit not a list': forge(GOOD, {'alg': 'HS256', 'crit': 1}),
    'detached payload': forge(GOOD, {'alg': 'HS256', 'b64': False, 'crit': ['b64']}),
    'header nested deep': forge(GOOD, NESTED),
    'claims nested deep': forge(NESTED),
    'header with 5000 digits': forge(GOOD, b'{"alg":' + b'9' * 5000 + b'}'),
    'claims of a list': forge([]),
    'claims that are not JSON': forge(b'{'),
    'claims that are not UTF-8': forge(b'{"sub":"\xff"}'),
    'no exp': forge({'sub': 'ann'}),
    'exp null': forge({'sub': 'ann', 'exp': None}),
    'exp text': forge({**GOOD, 'exp': str(NOW_S + 60)}),
    'exp true': forge({**GOOD, 'exp': True}),
    'exp infinite': forge(b'{"sub":"ann","exp":Infinity}'),
    'exp huge': forge(b'{"sub":"ann","exp":1e400}'),
    'exp beyond all calendars': forge({**GOOD, 'exp': 10**15}),
    'exp negative': forge({**GOOD, 'exp': -1}),
    'nbf ahead': forge({**GOOD, 'nbf': NOW_S + 6}),
    'nbf text': forge({**GOOD, 'nbf': '1'}),
    'iat ahead': forge({**GOOD, 'iat': NOW_S + 6}),
    'sub a number': forge({**GOOD, 'sub': 1}),
    'sub a lone surrogate': forge(b'{"sub":"\\ud800","exp":%d}' % (NOW_S + 60)),
    'channels text': forge({**GOOD, 'channels': 'news'}),
    'subscription token': forge({**GOOD, 'channel': 'news'}),
    'too long': forge({**GOOD, 'info': 'x' * 20_000}),
    'not ASCII': forge(GOOD) + 'é',
    'lone surrogate': '\ud800.\ud800.\ud800',
}


@pytest.mark.parametrize('token', ATTACKS.values(), ids=ATTACKS.keys())
def test_forged_or_malformed_token_is_refused(token: str) -> None:
    """A token with any defect is refused, even with a valid signature."""
    with pytest.raises(TokenInvalidError):
        verify(token)


@pytest.mark.parametrize(
    'claims',
    [
        {'iss': 'me'},
        {'aud': 'chat'},
        {'iss': 'you', 'aud': 'chat'},
        {'iss': 'me', 'aud': 'mail'},
        {'iss': 'me', 'aud': []},
        {'iss': 'me', 'aud': 'chatter'},
        {'iss': ['me'], 'aud': 'chat'},
    ],
)
def test_token_of_another_issuer_or_audience_is_refused(claims: dict[str, Any]) -> None:
    """A token of another issuer or for another audience is refused."""
    with pytest.raises(TokenInvalidError):
        verify(forge({**GOOD, **claims}), ISSUER_AND_AUDIENCE)


def test_hmac_with_a_public_key_is_refused() -> None:
    """An HMAC made with a public key in any form proves nothing."""
    verifier = TokenVerifier(TokenKey(RSA_PUBLIC, 'RS256'))
    as_jwk = json.dumps(jwk(RSA_KEY)).encode()
    for secret in (RSA_PUBLIC, RSA_PUBLIC.strip(), as_jwk):
        with pytest.raises(TokenInvalidError):
            verify(forge(GOOD, secret=secret), verifier)


@pytest.mark.parametrize(
    ('key', 'algorithm'),
    [
        (RSA_PUBLIC, 'HS256'),
        (b'', 'HS256'),
        ('too short', 'HS256'),
        ('x' * 63, 'HS512'),
        (SECRET, 'RS256'),
        (RSA_PUBLIC, 'ES256'),
        (KEYS['ES384'][1], 'ES256'),
        (SECRET, 'none'),
        (json.dumps(jwk(RSA_KEY)), 'HS256'),
    ],
)
def test_keys_for_the_wrong_algorithm_are_refused(key: Any, algorithm: Any) -> None:
    """A key that cannot be for its algorithm is refused at the start."""
    with pytest.raises(OptionsError):
        TokenKey(key, algorithm)


@pytest.mark.parametrize(
    'bad',
    [
        {},
        {'kty': 'oct', 'k': 'AAAA'},
        {'kty': 'oct', 'k': 'AAAA', 'alg': 'RS256'},
        {'kty': 'RSA', 'alg': 'HS256', 'n': 'AQAB', 'e': 'AQAB'},
        {'kty': 'RSA', 'n': '!'},
        {'kty': 'EC', 'crv': 'P-999', 'x': '', 'y': ''},
        {**jwk(RSA_KEY), 'd': 'AQAB'},
        {**jwk(RSA_KEY), 'alg': 'none'},
    ],
)
def test_bad_key_sets_are_refused(bad: dict[str, Any]) -> None:
    """A key set with a secret, or with something that is no key, is refused."""
    with pytest.raises(OptionsError):
        TokenVerifier.from_jwks({'keys': [bad]}, issuer='x')


def test_verifier_without_a_key_is_refused() -> None:
    """No key is not the same as every key."""
    with pytest.raises(OptionsError):
        TokenVerifier([])


def test_short_secret_is_refused_unless_allowed() -> None:
    """A short secret works where it is asked for, without a warning."""
    verifier = TokenVerifier(TokenKey('secret', allow_short=True))
    assert 'ann' == verify(forge(GOOD, secret=b'secret'), verifier).user


def test_subscription_token_without_a_channel_is_refused() -> None:
    """A connection token does not let anybody subscribe."""
    verifier = TokenVerifier(KEY)
    for claims in (
        GOOD,
        {**GOOD, 'channel': 1},
        {**GOOD, 'channel': 'a', 'client': 'c'},
    ):
        with pytest.raises(TokenInvalidError):
            verifier.subscription(forge(claims), now_s=NOW_S)


@settings(max_examples=500, deadline=None)
@given(
    st.binary(max_size=60)
    | st.dictionaries(
        st.sampled_from(['alg', 'kid', 'crit', 'b64', 'typ', 'jwk']),
        st.none() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=3)),
    ).map(lambda header: json.dumps(header).encode()),
    st.binary(max_size=60),
)
def test_random_token_raises_only_token_errors(header: bytes, claims: bytes) -> None:
    """Whatever is signed or not, nothing but a TokenError comes out."""
    with pytest.raises(TokenError):
        verify(forge(claims, header))


def test_repr_of_a_key_has_no_secret() -> None:
    """A key in a log does not say more than its name."""
    key = TokenKey(SECRET, kid='1')
    assert "<TokenKey HS256 kid='1' issuer=''>" == repr(key)
    assert SECRET not in str(vars(TokenVerifier(key)))


def test_missing_jwt_library_is_named_in_the_error() -> None:
    """Without PyJWT the error says what to install."""
    code = (
        'import sys\n'
        "sys.modules['jwt'] = None\n"
        'from falcon_channels.tokens import TokenKey\n'
        'try:\n'
        "    TokenKey('x' * 32)\n"
        'except ImportError as ex:\n'
        '    print(ex)\n'
    )
    out = subprocess.run(
        [sys.executable, '-c', code], check=True, capture_output=True, text=True
    ).stdout
    assert "Tokens needs an extra: pip install 'falcon-channels[tokens]'\n" == out


def test_token_of_a_user_with_a_long_id_is_refused() -> None:
    """An id of a user has at most 255 characters, wherever it comes from."""
    assert 'x' * 255 == verify(forge({**GOOD, 'sub': 'x' * 255})).user
    with pytest.raises(TokenInvalidError):
        verify(forge({**GOOD, 'sub': 'x' * 256}))
