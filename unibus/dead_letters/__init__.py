"""Dead letters: the record that travels with them, and the tools that look at them, replay and purge them.

The record is part of every consumer; the tools (`box`) load when `Bus.dead_letters` is used.
"""

from unibus.dead_letters.record import MAX_STACK, MAX_TEXT, DeadLetter, describe, is_record

__all__ = ["MAX_STACK", "MAX_TEXT", "DeadLetter", "describe", "is_record"]
