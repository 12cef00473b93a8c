"""A process dies at each step of a failed message's hop: nothing is lost, little is repeated, nothing is early."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.faults.conftest import MATRIX
from tests.faults.crossing import Crossing, Site
from tests.faults.hops import COMMITTING, EVERYWHERE, FORWARDING, MOVING, OF_QUEUES, SENDING_ON, Point
from tests.faults.kafka import KAFKA
from tests.faults.rabbitmq import RABBITMQ_3, RABBITMQ_4
from tests.faults.redis import REDIS_7, REDIS_8
from tests.faults.sqs import ELASTICMQ, MOTO

SITES = [
    Site(RABBITMQ_4, EVERYWHERE),
    Site(RABBITMQ_3, EVERYWHERE),
    Site(REDIS_8, [*EVERYWHERE, *MOVING], "tests.faults.redis_steps"),
    Site(REDIS_7, [*EVERYWHERE, *MOVING], "tests.faults.redis_steps"),
    Site(KAFKA, [*EVERYWHERE, *COMMITTING, *FORWARDING], "tests.faults.kafka_steps", "&partitions=1"),
    Site(MOTO, [*EVERYWHERE, *SENDING_ON], "tests.faults.sqs_steps"),
    Site(ELASTICMQ, [*OF_QUEUES, *SENDING_ON], "tests.faults.sqs_steps"),
]
CELLS = [pytest.param(site, point, id=f"{site.server.name}-{point}") for site in SITES for point in site.points]


@pytest.fixture(scope="module")
def crossings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Site], Crossing]:
    """The points of a site that were asked for are crossed once, side by side."""
    known: dict[str, Crossing] = {}

    def crossing(site: Site) -> Crossing:
        name = site.server.name
        if name not in known:
            calls = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
            chosen = [call["point"] for call in calls if call.get("site") is site and "point" in call]
            folder = tmp_path_factory.mktemp(name)
            known[name] = Crossing(site, chosen or site.points, folder, request.config.stash[MATRIX])
            asyncio.run(known[name].cross())
        return known[name]

    return crossing


@pytest.mark.parametrize(("site", "point"), CELLS)
def test_a_death_at_a_step_of_a_hop(crossings: Callable[[Site], Crossing], site: Site, point: Point) -> None:
    if found := crossings(site).found[point]:
        pytest.fail("\n".join(found), pytrace=False)


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.server.name)
def test_who_handles_the_rest_is_well(crossings: Callable[[Site], Crossing], site: Site) -> None:
    if found := crossings(site).unwell:
        pytest.fail("\n".join(found), pytrace=False)
