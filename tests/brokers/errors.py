"""What can go wrong with brokers for tests."""

from __future__ import annotations


class BrokerUnavailable(Exception):
    """A broker, its image or the container engine cannot be had; says why, and what to do."""


class NotOurs(Exception):
    """A server that somebody else runs may not be killed, paused or restarted by a test."""
