"""A server with TLS, every way to log in, and rights: one for all tests of a module."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.adapters.kafka.scram import add_user
from tests.brokers.catalogue import CATALOGUE, Place
from tests.brokers.certificates import self_signed
from tests.brokers.container import Contained

PASSWORD = "c4n4ry-s3cr3t"
USER, GUEST, MEMBER = "alice", "bob", "carol"
"""One who may do everything, and two who may do nothing but what a test gives them: he little, she what is enough."""
_LISTENERS = {
    "PLAIN": (0, "PLAINTEXT"), "TLS": (2, "SSL"), "MUTUAL": (3, "SSL"), "LOGIN": (4, "SASL_SSL"),
    "CLEAR": (5, "SASL_PLAINTEXT"), "LOST": (6, "PLAINTEXT"),
}  # fmt: skip
"""Where they listen, counted from the server's port. No name may have a `_`, nor end in SSL: official images would want
files of Java's own kind for it."""


@dataclass(frozen=True)
class Secured:
    """plain: without TLS and login. tls, mutual: of those that need no login; mutual wants a certificate of the
    client's, too. login: TLS and every mechanism. clear: SCRAM-SHA-256 alone, without TLS. lost: tells its clients
    to go on where nobody is."""

    server: Contained
    certificate: Path
    client: tuple[Path, Path]

    @property
    def plain(self) -> str:
        return self._url("PLAIN")

    def tls(self, options: str = "", host: str = "127.0.0.1", user: str = "") -> str:
        return f"{self._url('TLS', user, host)}?tls=on{options}"

    def mutual(self, options: str = "", own: tuple[Path, Path] | None = None) -> str:
        """own: the client's certificate, and its key."""
        ours = f"&certfile={own[0]}&keyfile={own[1]}" if own is not None else ""
        return f"{self._url('MUTUAL')}?tls=on{options}{ours}"

    def login(self, sasl: str, user: str = USER, password: str = PASSWORD, options: str = "") -> str:
        return f"{self._url('LOGIN', f'{user}:{password}@')}?tls=on&sasl={sasl}{self.trusted}{options}"

    def token(self, file: Path) -> str:
        return f"{self._url('LOGIN')}?tls=on&sasl=oauthbearer&tokenfile={file}{self.trusted}"

    def clear(self, sasl: str, password: str = PASSWORD) -> str:
        return f"{self._url('CLEAR', f'{USER}:{password}@')}?sasl={sasl}"

    @property
    def lost(self) -> str:
        return self._url("LOST")

    @property
    def trusted(self) -> str:
        return f"&cafile={self.certificate}"

    def _url(self, listener: str, user: str = "", host: str = "127.0.0.1") -> str:
        return f"kafka://{user}{host}:{self.server.port + _LISTENERS[listener][0]}"


@contextmanager
def secured(folder: Path) -> Iterator[Secured]:
    file, key = self_signed(folder)
    client = self_signed(folder, "client")

    def environment(place: Place) -> dict[str, str]:
        return CATALOGUE["kafka"].environment(place) | _listeners(place) | _tls(key, file, client[0]) | _logins()

    server = Contained.run("kafka-secured", replace(CATALOGUE["kafka"], environment=environment, ports=7))
    try:
        server.wait_ready()
        add_user((server.host, server.port), USER, PASSWORD)
        yield Secured(server, file, client)
    finally:
        server.kill()


def unsigned_token(subject: str, secret: str, seconds: float = 600) -> str:
    """Such as brokers take that were not told whose signatures to believe: for tests, says Kafka itself."""
    claims = {"sub": subject, "secret": secret, "iat": time.time() - 1, "exp": time.time() + seconds}
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "none"}, claims)
    ]
    return ".".join([*parts, ""])


def _listeners(place: Place) -> dict[str, str]:
    protocols = {name: protocol for name, (_, protocol) in _LISTENERS.items()} | {"CONTROLLER": "PLAINTEXT"}
    inside = {name: f"{place.bind}:{place.port + offset}" for name, (offset, _) in _LISTENERS.items()}
    outside = {name: f"127.0.0.1:{place.port + offset}" for name, (offset, _) in _LISTENERS.items()}
    inside["CONTROLLER"], outside["LOST"] = f"127.0.0.1:{place.port + 1}", "nowhere.invalid:9092"
    return {
        "KAFKA_LISTENERS": _joined("://", inside),
        "KAFKA_ADVERTISED_LISTENERS": _joined("://", outside),
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": _joined(":", protocols),
        "KAFKA_INTER_BROKER_LISTENER_NAME": "PLAIN",
    }


def _joined(by: str, values: dict[str, str]) -> str:
    return ",".join(f"{name}{by}{value}" for name, value in values.items())


def _tls(key: Path, file: Path, client: Path) -> dict[str, str]:
    return {
        "KAFKA_SSL_KEYSTORE_TYPE": "PEM",
        "KAFKA_SSL_KEYSTORE_KEY": _in_a_line(key),
        "KAFKA_SSL_KEYSTORE_CERTIFICATE_CHAIN": _in_a_line(file),
        "KAFKA_SSL_TRUSTSTORE_TYPE": "PEM",
        "KAFKA_SSL_TRUSTSTORE_CERTIFICATES": _in_a_line(client),
        "KAFKA_LISTENER_NAME_MUTUAL_SSL_CLIENT_AUTH": "required",
    }


def _logins() -> dict[str, str]:
    modules = "org.apache.kafka.common.security"
    users = " ".join(f"user_{user}={PASSWORD}" for user in (USER, GUEST, MEMBER))
    plain = f"{modules}.plain.PlainLoginModule required {users};"
    scram = f"{modules}.scram.ScramLoginModule required;"
    token = f"{modules}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=broker;"
    of_login = {"PLAIN": plain, "SCRAM-SHA-256": scram, "SCRAM-SHA-512": scram, "OAUTHBEARER": token}
    return {
        "KAFKA_LISTENER_NAME_LOGIN_SASL_ENABLED_MECHANISMS": ",".join(of_login),
        **{f"KAFKA_LISTENER_NAME_LOGIN_{name}_SASL_JAAS_CONFIG": module for name, module in of_login.items()},
        "KAFKA_LISTENER_NAME_CLEAR_SASL_ENABLED_MECHANISMS": "SCRAM-SHA-256",
        "KAFKA_LISTENER_NAME_CLEAR_SCRAM-SHA-256_SASL_JAAS_CONFIG": scram,
        "KAFKA_AUTHORIZER_CLASS_NAME": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "KAFKA_SUPER_USERS": f"User:ANONYMOUS;User:{USER};User:CN=unibus client",
    }


def _in_a_line(pem: Path) -> str:
    head, *body, tail = pem.read_text().strip().splitlines()
    return f"{head} {''.join(body)}{tail}"
