"""What the URL may say (`kafka://host:9092?…`), and what follows for the capabilities."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from unibus.driver import Capabilities, Limits


class Options(BaseModel):
    """The options of `kafka://`. Durations are seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    partitions: int = Field(4, ge=1, description="Partitions of a topic that does not say its own number.")
    replication: int = Field(-1, ge=-1, description="Replicas of a topic; -1 is the cluster's default.")
    timeout: float = Field(10.0, gt=0, description="How long a confirmation may take.")
    session: float = Field(10.0, gt=0, description="After how long a silent member's partitions go to others.")
    revoke: float = Field(10.0, gt=0, description="How long handlers may finish when partitions change hands.")
    metadata_age: float = Field(30.0, gt=0, description="How soon a pattern notices a new topic.")


def capabilities() -> Capabilities:
    """Kafka counts no deliveries, and holds none back: what is given back the driver hands out again."""
    limits = Limits(messages=500)
    return Capabilities(
        queue_ordering="native",
        topic_ordering="native",
        groups="native",
        ephemeral="native",
        patterns="native",
        start_earliest="native",
        max_body=1_000_000,
        body_limit_counts_metadata=True,
        send=Limits(messages=500, calls=4),
        receive=limits,
        settle=limits,
    )
