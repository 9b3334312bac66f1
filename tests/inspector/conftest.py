"""Fixtures of the tests of the inspector."""

from __future__ import annotations

import pytest

from falcon_channels.cluster import cluster


@pytest.fixture(autouse=True)
def quick_surveys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two nodes of a test know each other, so that no survey waits for others."""
    monkeypatch.setattr(cluster, '_DISCOVERY_S', 0.01)
