"""A broker's image: the official one where it can be pulled, else one of the same interface, built here."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import docker
from docker.errors import APIError, BuildError, DockerException, ImageNotFound
from requests import RequestException

from tests.brokers import debian, maven
from tests.brokers.catalogue import Local, Spec
from tests.brokers.client import connect
from tests.brokers.errors import BrokerUnavailable
from tests.brokers.lease import Lease
from tests.brokers.places import exclusive

RECIPES = Path(__file__).with_name("recipes")
PREPARE: Final[Mapping[str, Callable[[Local, Path], None]]] = {"kafka": maven.copy_jars, "elasticmq": maven.copy_jars}
log = logging.getLogger(__name__)
_no_registry = False


def image(spec: Spec, lease: Lease) -> str:
    """The name of an image that is there now."""
    built = _tag(spec.local)
    # An earlier run found that none can be pulled, and what it built is there: do not ask again.
    for name in (spec.image, built):
        if _present(name, lease.docker):
            return name
    with _time_of_tests_stands_still(), exclusive(built.replace(":", "-")):
        if _pulled(spec.image, lease.engine.url):
            return spec.image
        if not _present(built, lease.docker):
            _build(spec.local, built, lease)
    return built


@contextmanager
def _time_of_tests_stands_still() -> Iterator[None]:
    """An image takes minutes, once. The test that happens to ask first is not to run out of its time for that.

    The timer is the one by which pytest-timeout ends a test; a signal's timer is the main thread's.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, interval)


def _present(name: str, client: docker.DockerClient) -> bool:
    try:
        client.images.get(name)
    except ImageNotFound:
        return False
    return True


def _pulled(name: str, url: str) -> bool:
    """Whether the registry has it; asked once a run, since one that is away is away for all images."""
    global _no_registry
    if _no_registry:
        return False
    log.info("pulling %s", name)
    repository, _, tag = name.partition(":")
    try:
        with closing(connect(url, timeout=20)) as client:
            client.images.pull(repository, tag=tag)
    except (DockerException, RequestException) as error:
        log.info("cannot be pulled: %s", error)
        _no_registry = not isinstance(error, ImageNotFound)
        return False
    return True


def _tag(local: Local) -> str:
    """Named by its content, so that a changed recipe is another image."""
    digest = hashlib.sha256(repr((local, debian.RELEASE)).encode())
    for path in sorted((RECIPES / local.recipe).rglob("*")):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"unibus-test-{local.recipe}:{digest.hexdigest()[:12]}"


def _build(local: Local, tag: str, lease: Lease) -> None:
    base = debian.base(local.debian, lease)
    log.info("building %s on %s", tag, local.debian)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        shutil.copytree(RECIPES / local.recipe, context, dirs_exist_ok=True)
        _copy_certificates(context / "host.pem")
        if local.recipe in PREPARE:
            PREPARE[local.recipe](local, context)
        _build_in(context, tag, {"BASE": base, **_settings_of_pip(), **local.arguments}, lease)
    log.info("built %s in %.0f s", tag, time.monotonic() - began)


def _build_in(context: Path, tag: str, arguments: dict[str, str], lease: Lease) -> None:
    with closing(connect(lease.engine.url, timeout=900)) as client:
        try:
            client.images.build(
                path=str(context), tag=tag, rm=True, forcerm=True, network_mode="host", buildargs=arguments
            )
        except BuildError as error:
            lines = [line.get("stream", "") for line in error.build_log if isinstance(line, dict)]
            raise BrokerUnavailable(f"{tag} could not be built: {error}\n{''.join(lines)[-2000:]}") from error
        except (APIError, RequestException) as error:
            raise BrokerUnavailable(f"{tag} could not be built: {error}") from error


def _copy_certificates(to: Path) -> None:
    """What this machine trusts: a proxy or a mirror may have a certificate that a new Debian does not know."""
    named = (os.environ.get(name) for name in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"))
    for path in (*named, "/etc/ssl/certs/ca-certificates.crt"):
        if path and Path(path).is_file():
            shutil.copyfile(path, to)
            return
    to.touch()


def _settings_of_pip() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL") if name in os.environ}
