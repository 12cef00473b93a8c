"""What the URL may say."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Compression: TypeAlias = Literal["none", "gzip", "snappy", "lz4", "zstd"]
Sasl: TypeAlias = Literal["scram-sha-512", "scram-sha-256", "plain", "oauthbearer"]


class Options(BaseModel):
    """The options of `kafka://`. Durations are seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # --- topics that we create ---
    partitions: int = Field(4, ge=1, le=10_000, description="Partitions of a topic that does not say its own number.")
    replication: int | None = Field(None, ge=1, le=100, description="Replicas of a topic; else the cluster's default.")
    retention: float | None = Field(
        None,
        ge=60,
        description="How long a topic keeps records, read or not; else the cluster's default (7 days). What nobody "
        "has read by then is gone.",
    )
    # --- sending ---
    timeout: float = Field(10.0, gt=0, le=600, description="How long a message waits for its confirmation.")
    compression: Compression = Field("none", description="How batches are compressed.")
    # --- consuming ---
    session: float = Field(10.0, ge=1, le=300, description="After how long a silent member's partitions go to others.")
    revoke: float = Field(10.0, ge=0, le=300, description="How long handlers may finish when partitions change hands.")
    metadata_age: float = Field(5.0, ge=0.1, le=600, description="How soon a new topic of a pattern is noticed.")
    instance: str | None = Field(
        None,
        max_length=200,
        description="A name that stays with this process over its restarts, so that it gets its partitions back "
        "without a rebalance (static membership). Each process needs its own.",
    )
    # --- security ---
    tls: Literal["on", "off"] = Field("off", description="Whether the connections are encrypted.")
    cafile: str | None = Field(None, description="A file of the authorities that sign the servers' certificates.")
    certfile: str | None = Field(None, description="A file with our own certificate.")
    keyfile: str | None = Field(None, description="A file with the key of our own certificate.")
    insecure: Literal["on", "off"] = Field(
        "off", description="on accepts any certificate, so that anybody on the way can read and change all."
    )
    sasl: Sasl | None = Field(
        None,
        description="How we log in, as the user in the URL: scram-sha-512 unless told otherwise. plain only with "
        "tls=on, since it sends the password as it is.",
    )
    tokenfile: str | None = Field(
        None, description="oauthbearer: a file with the token, read again for every connection."
    )
