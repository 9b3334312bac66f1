"""Tests of what transports share."""
