"""Token buckets: tokens are added with time, and full buckets are forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from falcon_channels.endpoint.rate_limit import RateLimiter

STEPS = st.lists(
    st.tuples(st.sampled_from('ab'), st.integers(0, 30)), min_size=1, max_size=80
)


@given(STEPS, st.integers(1, 8), st.integers(1, 5))
def test_rate_limiter_matches_a_model_of_token_buckets(
    steps: list[tuple[str, int]], burst: int, per_s: int
) -> None:
    """For any order and times, the result is that of buckets counted one by one."""
    rates = RateLimiter(per_s, burst)
    tokens = dict.fromkeys('ab', float(burst))
    now_s = 0.0
    for user, tenths in steps:
        now_s += tenths / 10
        tokens = {u: min(burst, n + tenths / 10 * per_s) for u, n in tokens.items()}
        expected = tokens[user] >= 1 - 1e-6
        assert expected is rates.take(user, now_s)
        tokens[user] -= expected


def test_bucket_can_have_a_larger_burst_than_the_others() -> None:
    """A burst that grows gives the bucket more tokens, and no refill."""
    rates = RateLimiter(1.0, 0)
    assert [True, True, False] == [rates.take('ann', 0.0, 2) for _ in range(3)]
    assert [True, False] == [rates.take('ann', 0.0, 3) for _ in range(2)]
    assert not rates.take('bob', 0.0)
    assert rates.take('ann', 1.0, 3)


def test_full_buckets_are_forgotten() -> None:
    """Full buckets are removed, so that memory is bounded however many users come."""
    rates = RateLimiter(10.0, 20)
    most = 0
    for number in range(5000):
        assert rates.take(f'user{number}', number / 100)
        most = max(most, len(rates))
    # NOTE: a bucket of one command is full again in a tenth of a second.
    assert most <= 15
