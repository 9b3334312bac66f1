"""Tests of the official SDKs and other clients against servers of this project."""
