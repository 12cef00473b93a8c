"""What a run over dead letters did."""

from __future__ import annotations

from dataclasses import dataclass, field

MOST_REASONS = 1000
"""So many failures are told by id; beyond that they are counted alone."""


@dataclass(slots=True)
class Report:
    """total: how many lay there at the start. seen: how many of them the run has looked at. done: replayed or purged,
    in a dry run those that would be. unmatched: not meant by the conditions, or another consumer's. tired: meant, and
    left since they were replayed too often. failed: meant, and left for a reason of their own; `reasons` has it by id.
    unsettled: done, and yet perhaps still there, since the broker had taken them away meanwhile. stopped: why the run
    ended before it had seen all, "" if it has.
    """

    total: int = 0
    seen: int = 0
    done: int = 0
    unmatched: int = 0
    tired: int = 0
    failed: int = 0
    unsettled: int = 0
    reasons: dict[str, str] = field(default_factory=dict)
    stopped: str = ""
    dry_run: bool = False

    @property
    def complete(self) -> bool:
        """Whether all that was meant is done."""
        return not (self.tired or self.failed or self.unsettled or self.stopped)

    def fail(self, letter_id: str, reason: str) -> None:
        self.failed += 1
        if len(self.reasons) < MOST_REASONS:
            self.reasons[letter_id] = reason
