"""For tests: any bus on the memory broker with a clock that you move, and the contract suite for drivers."""

from unibus.testing.app import App, Sent, app, message
from unibus.testing.clock import MovableClock

__all__ = ["App", "MovableClock", "Sent", "app", "message"]
