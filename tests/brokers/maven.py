"""The Java libraries of an image, from Maven's repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.brokers import apt
from tests.brokers.catalogue import Local
from tests.brokers.errors import BrokerUnavailable


def copy_jars(local: Local, context: Path) -> None:
    """What the recipe's pom.xml depends on, into the folder `jars`."""
    command = [apt.need("mvn", "maven"), "-q", "-B", "-f", str(context / "pom.xml")]
    command += [f"-D{name.lower()}.version={value}" for name, value in local.arguments.items()]
    command += ["dependency:copy-dependencies", f"-DoutputDirectory={context / 'jars'}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BrokerUnavailable(f"Maven could not get the libraries of {local.recipe}:\n{done.stdout[-1500:]}")
