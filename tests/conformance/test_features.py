"""The table of docs/clients.md has a column for each SDK that the tests run."""

from __future__ import annotations

from conformance.features import documented_table


def test_table_of_features_has_the_sdks_that_the_tests_run() -> None:
    """The table has no column that no test compares."""
    head, *_ = documented_table()
    assert ['feature', 'JavaScript', 'Python', 'Go', 'Java'] == head
