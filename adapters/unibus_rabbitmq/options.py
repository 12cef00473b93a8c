"""What the URL may say, and where it leads."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field

from unibus.driver import Url
from unibus.errors import ConfigurationError

DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}


class Options(BaseModel):
    """The options of `amqp://` and `amqps://`. Durations are seconds, sizes bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("unibus", max_length=100, description="How our connections are called in RabbitMQ's own lists.")
    heartbeat: int = Field(10, ge=1, le=600, description="A connection that is silent for twice as long is given up.")
    connect_timeout: float = Field(4.0, gt=0, le=60, description="How long one attempt to connect may take.")
    publish_timeout: float = Field(5.0, gt=0, le=600, description="How long a message waits for its confirm.")
    queue_type: Literal["auto", "quorum", "classic"] = Field(
        "auto", description="Of the queues that we create; auto: quorum from RabbitMQ 3.13 on, classic before."
    )
    consumer_timeout: float | None = Field(
        None,
        ge=60,
        description="How long a delivery may stay unsettled, where handlers need more than the server's 30 minutes.",
    )
    max_body: int | None = Field(
        None, gt=0, le=512 * 1024 * 1024, description="The server's max_message_size, where it was changed."
    )
    cafile: str | None = Field(None, description="amqps: a file of the authorities that sign the server's certificate.")
    certfile: str | None = Field(None, description="amqps: a file with our own certificate.")
    keyfile: str | None = Field(None, description="amqps: a file with the key of our own certificate.")
    insecure: Literal["on", "off"] = Field(
        "off", description="amqps: on accepts any certificate, so that anybody on the way can read and change all."
    )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to connect, and as whom. Shows its URL without secrets."""

    url: Url
    options: Options
    host: str
    port: int
    username: str
    password: str
    vhost: str

    def __repr__(self) -> str:
        return f"Endpoint({self.url})"

    @property
    def tls(self) -> bool:
        return self.url.scheme == "amqps"

    def ssl_context(self) -> ssl.SSLContext:
        """Verifies the server's certificate and its name, unless the URL says otherwise."""
        options = self.options
        try:
            context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=options.cafile)
            if options.certfile is not None:
                context.load_cert_chain(options.certfile, options.keyfile)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"{self.url}: cafile, certfile or keyfile cannot be used ({error}); give paths of PEM files"
            ) from error
        if options.insecure == "on":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def endpoint(url: Url) -> Endpoint:
    """Raises ConfigurationError for what cannot be meant."""
    options = url.parse_options(Options)
    if url.scheme == "amqp" and options.model_fields_set & {"cafile", "certfile", "keyfile", "insecure"}:
        raise ConfigurationError(f"{url}: cafile, certfile, keyfile and insecure are for amqps://")
    if options.keyfile is not None and options.certfile is None:
        raise ConfigurationError(f"{url}: keyfile without certfile; give both")
    vhost = unquote(url.path[1:]) or "/"
    if "/" in url.path[1:]:
        raise ConfigurationError(f"{url}: a virtual host with a slash in it is written with %2F")
    return Endpoint(
        url=url,
        options=options,
        host=url.host or "localhost",
        port=url.port or DEFAULT_PORTS[url.scheme],
        username=url.username if url.username is not None else "guest",
        password=url.password if url.password is not None else "guest",
        vhost=vhost,
    )
