"""What a driver runs that tries the seam and is no adapter yet."""

from __future__ import annotations

from unibus.testing import contract


class Tried(
    contract.Roundtrip,
    contract.Topics,
    contract.Losing,
    contract.Ordering,
    contract.GroupOrdering,
    contract.Seam,
):
    """Round trips, groups, revocation, order by key, and the seam itself."""
