"""A broker in a container."""

from __future__ import annotations

import time
from functools import cached_property
from typing import Any

from docker.errors import APIError
from requests import RequestException
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from tests.brokers import images, ports
from tests.brokers.catalogue import Place, Spec
from tests.brokers.errors import BrokerUnavailable
from tests.brokers.lease import Lease, lease
from tests.brokers.probes import probe


class Contained:
    """See `Broker`."""

    ours = True
    host = "127.0.0.1"

    def __init__(self, name: str, spec: Spec, port: int, container: Any) -> None:
        self.name = name
        self.port = port
        self.url = spec.url.format(port=port)
        self._spec = spec
        self._container = container

    @classmethod
    def run(cls, name: str, spec: Spec, port: int | None = None) -> Contained:
        """port: the first of its own, free ones by default."""
        held = lease()
        image = images.image(spec, held)
        port = port or ports.reserve(spec.ports)
        try:
            container = _configured(image, spec, port, held).start()
        except (APIError, RequestException) as error:
            raise BrokerUnavailable(f"the container of {name} could not be started: {error}") from error
        return cls(name, spec, port, container.get_wrapped_container())

    @cached_property
    def version(self) -> str:
        return probe(self.url, self._spec.probe) or self._spec.version

    def admin(self, *command: str) -> str:
        done = self._container.exec_run(list(command))
        output = done.output.decode(errors="replace")
        if done.exit_code != 0:
            raise RuntimeError(f"{' '.join(command)} in {self.name}: exit code {done.exit_code}\n{output}")
        return str(output)

    def logs(self) -> str:
        return str(self._container.logs().decode(errors="replace"))

    def processes(self) -> list[int]:
        """Their numbers on this machine."""
        listed = self._container.top()
        column = listed["Titles"].index("PID")
        return [int(row[column]) for row in listed["Processes"]]

    def kill(self) -> None:
        self._container.kill()
        self._container.wait()  # the engine knows that it is gone: else `start` would do nothing

    def start(self) -> None:
        self._container.start()
        self.wait_ready()

    def restart(self) -> None:
        self._container.stop(timeout=30)
        self.start()

    def pause(self) -> None:
        self._container.pause()

    def unpause(self) -> None:
        self._container.unpause()

    def wait_ready(self, timeout: float = 90) -> None:
        deadline = time.monotonic() + timeout
        looked_at = time.monotonic()
        while probe(self.url, self._spec.probe) is None:
            if time.monotonic() > deadline:
                raise BrokerUnavailable(f"{self.name} does not serve after {timeout:.0f} s:\n{self.logs()[-2000:]}")
            if time.monotonic() - looked_at > 1:
                looked_at = time.monotonic()
                self.look()
            time.sleep(0.02)

    def look(self) -> None:
        self._container.reload()
        state = self._container.attrs["State"]
        if state["Status"] not in ("running", "paused"):
            why = "out of memory" if state["OOMKilled"] else f"exit code {state['ExitCode']}"
            raise BrokerUnavailable(f"{self.name} has ended ({why}):\n{self.logs()[-4000:]}")


def _configured(image: str, spec: Spec, port: int, held: Lease) -> DockerContainer:
    # The guardian removes what is left, and needs no image for it.
    testcontainers_config.ryuk_disabled = True
    on_host = shares_network(held)
    place = Place("127.0.0.1" if on_host else "0.0.0.0", port)
    container = DockerContainer(
        image,
        docker_client_kw={"environment": {"DOCKER_HOST": held.engine.url}},
        env=spec.environment(place),
    )
    settings: dict[str, Any] = {"labels": held.labels, "network": "host" if on_host else "bridge"}
    if spec.program is not None:
        settings["entrypoint"] = ["python3", "-c", spec.program.read_text()]
    container.with_kwargs(**settings)
    if command := spec.command(place):
        container.with_command(command)
    if not on_host:
        loopback: dict[str, Any] = {f"{each}/tcp": ("127.0.0.1", each) for each in range(port, port + spec.ports)}
        container.ports = loopback
    return container


def shares_network(held: Lease) -> bool:
    """Whether 127.0.0.1 in a container can be that of this machine: not in a virtual machine, nor rootless."""
    info = held.docker.info()
    return "Docker Desktop" not in info["OperatingSystem"] and "name=rootless" not in info.get("SecurityOptions", ())
