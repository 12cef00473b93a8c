"""Where the keys lie. A program with migrations of its own takes METADATA into them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, MetaData, Sequence, Table, Text

METADATA: Final = MetaData()

KEYS: Final = Table(
    "unibus_idempotency",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("until", Double, nullable=False),  # seconds since 1970, by the database's clock
    Column("done", Boolean, nullable=False),
    Index("unibus_idempotency_until", "until"),
)
"""A row: who has claimed the key until when, or until when it is remembered that it is done."""

FENCES: Final = Sequence("unibus_idempotency_fence", metadata=METADATA)
"""Fences come from one counter, and so rise for every key, also when a key was forgotten in between. SQLite has no
sequences: there the counter is the row whose key is empty."""
