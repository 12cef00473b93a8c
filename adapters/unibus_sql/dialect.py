"""The statements, and where PostgreSQL and SQLite differ in them. However many keys, it is one statement.

Those that change several rows take them in the order of their keys, so that no two of them wait for each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import TextClause, text

KEPT_LAPSED: Final = 24 * 3600
"""Seconds for which a claim that lapsed is still its owner's, unless somebody else takes the key."""
SWEPT: Final = 1000
"""Rows that are swept by one statement."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """serial: whether one transaction writes at a time. counts: whether fences are counted by a statement before.

    claim: takes keys that are free. keep: the same, of those that no open transaction has taken, without waiting.
    """

    serial: bool
    count: TextClause | None
    claim: TextClause
    keep: TextClause
    held: TextClause
    complete: TextClause
    renew: TextClause
    release: TextClause
    forget: TextClause
    sweep: TextClause
    begin: TextClause | None
    creating: TextClause | None


def _dialect(
    *, now: str, keys: str, items: str, fence: str, free: str, in_order: str, skip_locked: str,
    count: str | None = None, begin: str | None = None, creating: str | None = None,
) -> Dialect:  # fmt: skip
    later = f"{now} + CAST(:lasts AS double precision)"
    ours = f"""
        WITH ours AS (
            SELECT kept.key AS key FROM unibus_idempotency AS kept JOIN {items}
            ON kept.key = asked.key AND kept.owner = asked.owner AND kept.fence = asked.fence
            WHERE NOT kept.done {in_order}
        )"""

    def take(which: str) -> TextClause:
        return text(f"""
            INSERT INTO unibus_idempotency AS kept (key, owner, fence, until, done)
            SELECT asked.key, CAST(:owner AS text), {fence}, {later}, CAST(:done AS boolean)
            FROM {keys} WHERE {which} ORDER BY asked.key
            ON CONFLICT (key) DO UPDATE
            SET owner = excluded.owner, fence = excluded.fence, until = excluded.until, done = excluded.done
            WHERE excluded.fence > kept.fence
            AND (kept.until <= {now} OR (NOT kept.done AND kept.owner = excluded.owner))
            RETURNING key, fence""")

    return Dialect(
        serial=begin is not None,
        count=text(count) if count else None,
        claim=take("true"),
        keep=take(free),
        held=text(f"""
            SELECT key, owner, until - {now} AS remaining, done FROM unibus_idempotency
            WHERE key IN (SELECT asked.key FROM {keys})"""),
        complete=text(f"""{ours} UPDATE unibus_idempotency SET done = true, until = {later}
            WHERE key IN (SELECT key FROM ours) RETURNING key, fence"""),
        renew=text(f"""{ours} UPDATE unibus_idempotency SET until = {later}
            WHERE key IN (SELECT key FROM ours) RETURNING key, fence"""),
        release=text(f"{ours} DELETE FROM unibus_idempotency WHERE key IN (SELECT key FROM ours) RETURNING key, fence"),
        forget=text(f"DELETE FROM unibus_idempotency WHERE key IN (SELECT asked.key FROM {keys})"),
        sweep=text(f"""
            DELETE FROM unibus_idempotency WHERE key IN (
                SELECT key FROM unibus_idempotency
                WHERE until < {now} AND (done OR until < {now} - {KEPT_LAPSED})
                ORDER BY until LIMIT {SWEPT} {skip_locked}
            )"""),
        begin=text(begin) if begin else None,
        creating=text(creating) if creating else None,
    )


_ADVISORY: Final = 7_239_114_066
"""Sets our advisory locks apart from those of others, who may have any; who meets one by chance waits, no more."""

POSTGRESQL: Final = _dialect(
    # Not clock_timestamp, which no index can be asked with; a statement of ours is short.
    now="CAST(extract(epoch FROM statement_timestamp()) AS double precision)",
    keys="json_array_elements_text(CAST(CAST(:keys AS text) AS json)) AS asked(key)",
    items="json_to_recordset(CAST(CAST(:items AS text) AS json)) AS asked(key text, owner text, fence bigint)",
    fence="nextval('unibus_idempotency_fence')",
    # An insert would wait for the end of another transaction that has inserted the same key: for a whole handler.
    free=f"pg_try_advisory_xact_lock(hashtextextended(asked.key, {_ADVISORY}))",
    in_order="ORDER BY kept.key FOR UPDATE OF kept",
    skip_locked="FOR UPDATE SKIP LOCKED",
    # CREATE … IF NOT EXISTS fails where two do it at once.
    creating=f"SELECT pg_advisory_xact_lock({_ADVISORY})",
)  # fmt: skip

SQLITE: Final = _dialect(
    now="((julianday('now') - 2440587.5) * 86400.0)",
    keys="(SELECT value AS key, key + 1 AS place FROM json_each(:keys)) AS asked",
    items="""(
        SELECT json_extract(value, '$.key') AS key, json_extract(value, '$.owner') AS owner,
        json_extract(value, '$.fence') AS fence FROM json_each(:items)
    ) AS asked""",
    fence="CAST(:before AS bigint) + asked.place",
    free="true",
    in_order="",
    skip_locked="",
    count="""
        INSERT INTO unibus_idempotency AS kept (key, owner, fence, until, done) VALUES ('', '', :many, 9e99, true)
        ON CONFLICT (key) DO UPDATE SET fence = kept.fence + excluded.fence RETURNING fence""",
    # A transaction that began by reading could not be finished if another has written meanwhile.
    begin="BEGIN IMMEDIATE",
)

DIALECTS: Final = {"postgresql": POSTGRESQL, "sqlite": SQLITE}
