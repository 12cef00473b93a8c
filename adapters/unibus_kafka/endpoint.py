"""Where the cluster is, and how its clients log in."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

from aiokafka.abc import AbstractTokenProvider

from unibus.driver import Url
from unibus.errors import ConfigurationError
from unibus_kafka.discretion import keep_logins_secret
from unibus_kafka.options import Options

DEFAULT_PORT = 9092


class Endpoint:
    """Shows its URL without secrets. Raises ConfigurationError for what cannot be meant."""

    def __init__(self, url: Url) -> None:
        self.url = url
        self.options = options = url.parse_options(Options)
        if url.path.strip("/"):
            raise ConfigurationError(f"{url}: Kafka has no path; use kafka://host:port,host:port?option=value")
        self.servers = [_address(host, port) for host, port in url.hosts]
        self._mechanism = _mechanism(url, options)
        if options.tls == "off" and options.model_fields_set & {"cafile", "certfile", "keyfile", "insecure"}:
            raise ConfigurationError(f"{url}: cafile, certfile, keyfile and insecure need tls=on")
        if options.keyfile is not None and options.certfile is None:
            raise ConfigurationError(f"{url}: keyfile without certfile; give both")
        self._context = _context(url, options) if options.tls == "on" else None
        if self._mechanism is not None:
            keep_logins_secret()

    def __repr__(self) -> str:
        return f"Endpoint({self.url})"

    @property
    def security(self) -> dict[str, Any]:
        """Arguments that all clients of the library and its connections take."""
        encrypted, named = self._context is not None, self._mechanism is not None
        arguments: dict[str, Any] = {
            "security_protocol": ("SASL_" if named else "") + ("SSL" if encrypted else "PLAINTEXT"),
            "ssl_context": self._context,
        }
        if self._mechanism is not None:
            arguments |= {
                "sasl_mechanism": self._mechanism,
                "sasl_plain_username": self.url.username,
                "sasl_plain_password": self.url.password,
            }
        if self._mechanism == "OAUTHBEARER":
            assert self.options.tokenfile is not None
            arguments["sasl_oauth_token_provider"] = _TokenFile(Path(self.options.tokenfile))
        return arguments


class _TokenFile(AbstractTokenProvider):  # type: ignore[misc]
    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> str:
        return (await asyncio.to_thread(self._path.read_text)).strip()


def _address(host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host else host or "localhost"
    return f"{shown}:{port or DEFAULT_PORT}"


def _mechanism(url: Url, options: Options) -> str | None:
    chosen = options.sasl
    if chosen is None:
        if url.username is None and url.password is None:
            return None
        chosen = "scram-sha-512"
    if chosen == "oauthbearer":
        if options.tokenfile is None:
            raise ConfigurationError(f"{url}: sasl=oauthbearer needs tokenfile=, a file with the token")
        _look_at(url, options.tokenfile)
    elif url.username is None or url.password is None:
        raise ConfigurationError(f"{url}: sasl={chosen} needs a user and a password: kafka://user:password@host:port")
    if options.tokenfile is not None and chosen != "oauthbearer":
        raise ConfigurationError(f"{url}: tokenfile is for sasl=oauthbearer")
    if chosen in ("plain", "oauthbearer") and options.tls == "off":
        raise ConfigurationError(
            f"{url}: sasl={chosen} sends its secret as it is, for anybody on the way to read; add tls=on, or use "
            "sasl=scram-sha-512"
        )
    return chosen.upper()


def _look_at(url: Url, tokenfile: str) -> None:
    try:
        Path(tokenfile).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{url}: tokenfile cannot be read ({error}); give the path of the token") from error


def _context(url: Url, options: Options) -> ssl.SSLContext:
    """Verifies the server's certificate and its name, unless the URL says otherwise."""
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=options.cafile)
        if options.certfile is not None:
            context.load_cert_chain(options.certfile, options.keyfile)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"{url}: cafile, certfile or keyfile cannot be used ({error}); give paths of PEM files"
        ) from error
    if options.insecure == "on":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
