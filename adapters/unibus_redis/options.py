"""What the URL may say, where it leads, and what follows for the capabilities."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from unibus.driver import Capabilities, Confirmed, Delay, Limits, Url
from unibus.errors import ConfigurationError

Mode = Literal["single", "sentinel", "cluster"]

PORT, SENTINEL_PORT = 6379, 26379

BATCH = Limits(messages=256, calls=4)
SEND = Limits(messages=256, calls=2, min_messages=32)
"""A server works at one thing at a time: two calls keep it busy, and many small ones cost it more than few large."""

PRECISION = 0.25
"""Seconds by which a delayed message may be late: those who move it look every 0.2 s."""


class Options(BaseModel):
    """The options of `redis://`, `rediss://` and their kin. Durations are seconds, sizes bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lease: float = Field(30.0, ge=1, description="How long a message stays with a consumer that has fallen silent.")
    timeout: float = Field(5.0, gt=0, le=600, description="How long an answer of the server may take.")
    max_body: int = Field(8 * 1024 * 1024, gt=0, le=512 * 1024 * 1024, description="The largest body.")
    fsync: bool = Field(
        False, description="Confirm what is sent only once it is on the server's disk (WAITAOF, Redis 7.2)."
    )
    replicas: int = Field(0, ge=0, description="Confirm what is sent only once so many replicas have it (WAIT).")
    cafile: str | None = Field(None, description="rediss: a file of the authorities that sign the certificate.")
    certfile: str | None = Field(None, description="rediss: a file with our own certificate.")
    keyfile: str | None = Field(None, description="rediss: a file with the key of our own certificate.")
    insecure: bool = Field(
        False, description="rediss: accept any certificate, so that anybody on the way can read and change all."
    )
    sentinel_username: str | None = Field(None, description="redis+sentinel: as whom to ask the sentinels.")
    sentinel_password: str | None = Field(None, description="redis+sentinel: with what password.")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to connect, and as whom. Shows its URL without secrets. service: what the sentinels call the master."""

    url: Url
    options: Options
    mode: Mode
    hosts: tuple[tuple[str, int], ...]
    database: int
    service: str

    def __repr__(self) -> str:
        return f"Endpoint({self.url})"

    @property
    def tls(self) -> bool:
        return self.url.scheme.startswith("rediss")


def endpoint(url: Url) -> Endpoint:
    """Raises ConfigurationError for what cannot be meant."""
    options = url.parse_options(Options)
    _, _, kind = url.scheme.partition("+")
    mode: Mode = "sentinel" if kind == "sentinel" else "cluster" if kind == "cluster" else "single"
    given = options.model_fields_set
    if not url.scheme.startswith("rediss") and given & {"cafile", "certfile", "keyfile", "insecure"}:
        raise ConfigurationError(f"{url}: cafile, certfile, keyfile and insecure are for rediss://")
    if options.keyfile is not None and options.certfile is None:
        raise ConfigurationError(f"{url}: keyfile without certfile; give both")
    if mode != "sentinel" and given & {"sentinel_username", "sentinel_password"}:
        raise ConfigurationError(f"{url}: sentinel_username and sentinel_password are for redis+sentinel://")
    if mode == "single" and len(url.hosts) > 1:
        raise ConfigurationError(f"{url}: several hosts are for redis+sentinel:// or redis+cluster://")
    if url.scheme.startswith("rediss"):
        _check_certificates(url, options)
    service, database = _path(url, mode)
    port = SENTINEL_PORT if mode == "sentinel" else PORT
    hosts = tuple((host or "localhost", own or port) for host, own in url.hosts)
    return Endpoint(url, options, mode, hosts, database, service)


def _check_certificates(url: Url, options: Options) -> None:
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=options.cafile)
        if options.certfile is not None:
            context.load_cert_chain(options.certfile, options.keyfile)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"{url}: cafile, certfile or keyfile cannot be used ({error}); give paths of PEM files"
        ) from error


def _path(url: Url, mode: Mode) -> tuple[str, int]:
    """The master's name and the number of the database."""
    words = [word for word in url.path.split("/") if word]
    service = ""
    if mode == "sentinel":
        if not words:
            raise ConfigurationError(f"{url}: the path names the master, as in redis+sentinel://host:26379/mymaster/0")
        service, *words = words
    if mode == "cluster" and words and words != ["0"]:
        raise ConfigurationError(f"{url}: a cluster has no databases but 0; leave the path out")
    if len(words) > 1 or (words and not (words[0].isascii() and words[0].isdigit())):
        raise ConfigurationError(f"{url}: the path is the number of a database, as in redis://host:6379/0")
    return service, int(words[0]) if words else 0


_NOTES: dict[Confirmed, str] = {
    "memory": "what is confirmed is lost when the server's process dies: it keeps no append-only file",
    "disk": "a power failure may take what appendfsync has not brought to the disk, with everysec a second of it",
    "replicas": "a failover may lose what is confirmed, if a replica is promoted that has not got it",
}
_ONE_SLOT = "all topics lie in one slot, so that one node carries all that is published; queues are spread"


def capabilities(endpoint: Endpoint, confirmed: Confirmed) -> Capabilities:
    """Streams: a queue, and each group, is a stream with one consumer group."""
    options = endpoint.options
    notes = () if options.fsync else (_NOTES[confirmed],)
    return Capabilities(
        confirmed=confirmed,
        queue_ordering="emulated",
        topic_ordering="emulated",
        groups="emulated",
        ephemeral="emulated",
        patterns="native",
        delay=Delay("emulated", None, PRECISION),
        delivery_count="native",
        ordered_delivery_count="native",
        lease=options.lease,
        browse="native",
        max_body=options.max_body,
        send=BATCH if options.fsync or options.replicas else SEND,  # such calls wait, so more of them do
        receive=BATCH,
        settle=BATCH,
        notes=(*notes, _ONE_SLOT) if endpoint.mode == "cluster" else notes,
    )
