"""Mutants: each changes one thing that unibus promises, and the contract suite must notice.

As a pytest plugin (`-p tests.contract.mutants`) it applies the mutant that UNIBUS_MUTANT names.
"""

from tests.contract.mutants import brokers, failing, handling, replaying, sending, settling
from tests.contract.mutants.registry import MUTANTS, VARIABLE, Mutant, apply_chosen

__all__ = ["MUTANTS", "VARIABLE", "Mutant", "brokers", "failing", "handling", "replaying", "sending", "settling"]


def pytest_configure() -> None:
    apply_chosen()
