"""Minimal images of Debian, where no registry has them."""

from __future__ import annotations

import logging
import shutil
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from docker.errors import ImageNotFound

from tests.brokers import apt
from tests.brokers.client import connect
from tests.brokers.errors import BrokerUnavailable
from tests.brokers.lease import Lease
from tests.brokers.places import CACHE, exclusive

RELEASE: Final = 1
"""Of the way bases are made: raise it to have all of them made anew."""
log = logging.getLogger(__name__)


def base(release: str, lease: Lease) -> str:
    """The name of a minimal image that is there now."""
    name = f"unibus-test-debian:{release}-{RELEASE}"
    with exclusive(f"debian-{release}"):
        try:
            lease.docker.images.get(name)
        except ImageNotFound:
            began = time.monotonic()
            log.info("making a base of Debian %s", release)
            _make(release, name, lease)
            log.info("made a base of Debian %s in %.0f s", release, time.monotonic() - began)
    return name


def _make(release: str, name: str, lease: Lease) -> None:
    folder = CACHE / "debootstrap" / release
    _remove(folder)
    folder.mkdir(parents=True)
    try:
        _debootstrap(release, folder / "root")
        tar = folder / "root.tar"
        left_out = ("./var/cache/apt/*.bin", "./var/cache/apt/archives/*.deb", "./var/lib/apt/lists/*")
        options = ["--numeric-owner", "--one-file-system", *(f"--exclude={path}" for path in left_out)]
        _run(["tar", *options, "-C", str(folder / "root"), "-cf", str(tar), "."])
        repository, _, tag = name.partition(":")
        with closing(connect(lease.engine.url, timeout=300)) as client, tar.open("rb") as data:
            client.api.import_image_from_data(data, repository=repository, tag=tag)
    finally:
        _remove(folder)


def _debootstrap(release: str, root: Path) -> None:
    if not apt.installable():
        raise BrokerUnavailable(
            "no image registry can be reached, and only root on Debian can build images here: "
            "name running servers in UNIBUS_TEST_RABBITMQ_URL and the like"
        )
    debootstrap = apt.need("debootstrap", "debootstrap")
    # In a mount namespace of its own: what it mounts in the folder is gone when it is, even if it was killed.
    _run([apt.need("unshare", "util-linux"), "--mount", debootstrap, "--variant=minbase", release, str(root)])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BrokerUnavailable(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-1500:]}")


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
