"""The table of docs/clients.md has a column for each SDK that the tests run."""

from __future__ import annotations

from conformance.features import documented_table
from conformance.features import FEATURES
from conformance.features import Support


def test_table_of_features_has_the_sdks_that_the_tests_run() -> None:
    """The table has no column that no test compares."""
    head, *_ = documented_table()
    assert ['feature', 'JavaScript', 'Python', 'Go', 'Java'] == head


def test_feature_that_did_not_run_is_neither_supported_nor_absent() -> None:
    """A column says so if a feature has not run, and the table has no such cell."""
    features = [name for name in FEATURES if name not in ('joins', 'delta')]
    column = Support(
        version='1', encodings=('JSON',), features=features, absent=['delta']
    ).column()
    assert 'not tested' == column.pop(FEATURES['joins'])
    assert 'not in the SDK' == column.pop(FEATURES['delta'])
    assert {'yes'} == {column[FEATURES[name]] for name in features}
    assert 'not tested' not in {cell for row in documented_table() for cell in row}
