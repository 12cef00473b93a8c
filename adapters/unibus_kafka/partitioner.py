"""Which partition a key belongs to: as the Java client and its like say, so that other programs agree."""

from __future__ import annotations

from functools import lru_cache
from struct import unpack_from

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


@lru_cache(maxsize=8192)
def hashed(key: bytes) -> int:
    """Murmur2 with Kafka's seed, without the sign."""
    size = len(key)
    words = size >> 2
    h = _SEED ^ size
    for k in unpack_from(f"<{words}I", key):
        k = (k * _M) & _MASK  # noqa: PLW2901
        h = ((h * _M) & _MASK) ^ (((k ^ (k >> 24)) * _M) & _MASK)
    rest = key[words << 2 :]
    if rest:
        h = ((h ^ int.from_bytes(rest, "little")) * _M) & _MASK
    h = ((h ^ (h >> 13)) * _M) & _MASK
    return (h ^ (h >> 15)) & 0x7FFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    return hashed(key) % partitions
