"""Tests of the server: the protocol class and the command."""
