"""What a mutant is, and how one is applied."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

VARIABLE = "UNIBUS_MUTANT"


@dataclass(frozen=True)
class Mutant:
    """apply: does the damage. cases: what to run (`-k`). on: the class to run it in."""

    apply: Callable[[], None]
    cases: str
    on: str


MUTANTS: dict[str, Mutant] = {}


def mutant(cases: str, on: str = "TestMemoryQueue") -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a function that damages unibus; its name is the mutant's."""

    def register(apply: Callable[[], None]) -> Callable[[], None]:
        MUTANTS[apply.__name__] = Mutant(apply, cases, on)
        return apply

    return register


def change(owner: object, name: str, value: object) -> None:
    """Put something else in the place of a function; the name must exist, else the mutant changes nothing."""
    assert hasattr(owner, name), f"{owner} has no {name} any more: the mutant is out of date"
    setattr(owner, name, value)


def apply_chosen() -> None:
    """Apply the one that the environment names."""
    name = os.environ.get(VARIABLE)
    if name:
        MUTANTS[name].apply()
