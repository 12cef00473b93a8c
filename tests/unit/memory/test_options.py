from __future__ import annotations

import pytest

from tests.unit.memory.tools import QUEUE, Events, World, create, out
from unibus.driver import Capabilities, Delay, Limits, Outcome, Queue, SystemClock, TopicSubscription, Url
from unibus.errors import ConfigurationError, UnsupportedCapability
from unibus.memory import Options, connect

GROUP = TopicSubscription(("a.b",), group="g")


def capabilities(query: str) -> Capabilities:
    return connect(Url(f"memory://{query}"), SystemClock()).capabilities


def test_defaults_of_the_queue_model() -> None:
    limits = Limits(messages=256)
    assert capabilities("") == Capabilities(
        confirmed="memory",
        queue_ordering="native",
        topic_ordering="native",
        groups="native",
        ephemeral="native",
        patterns="native",
        start_earliest="none",
        delay=Delay("native", None, 0.0),
        nack_delay="native",
        delivery_count="native",
        ordered_delivery_count="native",
        lease=30.0,
        browse="native",
        send=limits,
        receive=limits,
        settle=limits,
    )


def test_defaults_of_the_log_model() -> None:
    log = capabilities("?model=log")
    assert (log.lease, log.hold, log.delivery_count, log.start_earliest) == (None, None, "none", "native")
    assert (log.delay.support, log.nack_delay, log.queue_ordering) == ("emulated", "emulated", "native")


@pytest.mark.parametrize(
    ("query", "field", "value"),
    [
        ("?lease=0", "lease", None),
        ("?lease=2.5", "lease", 2.5),
        ("?hold=60", "hold", 20.0),
        ("?max_body=10", "max_body", 10),
        ("?groups=off", "groups", "none"),
        ("?ephemeral=off", "ephemeral", "none"),
        ("?patterns=off", "patterns", "none"),
        ("?ordering=off", "queue_ordering", "none"),
        ("?ordering=off", "topic_ordering", "none"),
        ("?delay=off", "delay", Delay("none")),
        ("?delay_max=9", "delay", Delay("native", 9.0, 0.0)),
        ("?nack_delay=off", "nack_delay", "none"),
        ("?count=off", "delivery_count", "none"),
        ("?batch=7", "receive", Limits(messages=7)),
        ("?guarantee=at_most_once", "queue_guarantee", "at_most_once"),
        ("?guarantee=at_most_once", "topic_guarantee", "at_most_once"),
        ("?guarantee=at_most_once", "lease", None),
        ("?guarantee=at_most_once", "nack_delay", "none"),
        ("?model=log&start_earliest=off", "start_earliest", "none"),
        ("?model=log&delay_max=9", "delay", Delay("emulated", 9.0, 0.0)),
    ],
)
def test_capabilities_follow_the_options(query: str, field: str, value: object) -> None:
    assert getattr(capabilities(query), field) == value


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("?leese=3", "lease"),
        ("?lease=-1", "lease"),
        ("?groups=maybe", "groups"),
        ("?model=heap", "model"),
        ("?partitions=3", "partitions: .*needs model=log"),
        ("?retention=3&model=queue", "retention"),
        ("?model=log&lease=3", "lease: .*needs model=queue"),
        ("?lease=3&model=log", "lease: .*needs model=queue"),
        ("?model=log&count=on", "count"),
        (":80", "name"),
        ("name/path", "name"),
        ("user@name", "name"),
    ],
)
def test_bad_urls_are_named(query: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        capabilities(query)


@pytest.mark.parametrize(
    ("query", "source"),
    [
        ("?groups=off", GROUP),
        ("?ephemeral=off", TopicSubscription(("a.b",))),
        ("?patterns=off", TopicSubscription(("a.b", "a.*"), group="g")),
        ("?ordering=off", Queue("q", ordering="key")),
        ("?ordering=off", TopicSubscription(("a.b",), group="g", ordering="key")),
        ("", TopicSubscription(("a.b",), group="g", start="earliest")),
        ("?model=log&start_earliest=off", TopicSubscription(("a.b",), group="g", start="earliest")),
    ],
)
async def test_what_is_off_is_refused(
    world: World, events: Events, query: str, source: Queue | TopicSubscription
) -> None:
    driver = await world.driver(f"memory://{query}")
    with pytest.raises(UnsupportedCapability):
        await driver.declare(create(source))
    with pytest.raises(UnsupportedCapability):
        await driver.subscribe(source, prefetch=1, notify=events)
    with pytest.raises(UnsupportedCapability):
        await driver.send(source, [out(1)])


@pytest.mark.parametrize("model", ["queue", "log"])
@pytest.mark.parametrize(("query", "said"), [("delay=off", "switched off"), ("delay_max=5", "over the limit of 5")])
async def test_delays_beyond_the_options_are_refused(world: World, model: str, query: str, said: str) -> None:
    driver = await world.driver(f"memory://?model={model}&{query}")
    await driver.declare(create(QUEUE))
    with pytest.raises(UnsupportedCapability, match=said):
        await driver.send(QUEUE, [out(1), out(2, delay=5.5)])
    assert (await driver.depth(QUEUE)).ready == 0


async def test_a_nack_with_a_delay_is_refused_where_it_is_off(world: World, events: Events) -> None:
    driver = await world.driver("memory://?nack_delay=off")
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=1, notify=events)
    await driver.send(QUEUE, [out(1)])
    held = await subscription.receive(1, 0)
    with pytest.raises(UnsupportedCapability):
        await subscription.settle(held, Outcome.NACK, delay=1)
    assert (await driver.depth(QUEUE)).in_flight == 1


async def test_without_a_count_there_is_none(world: World, events: Events) -> None:
    driver = await world.driver("memory://?count=off")
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=1, notify=events)
    await driver.send(QUEUE, [out(1)])
    held = await subscription.receive(1, 0)
    await subscription.settle(held, Outcome.NACK)
    [again] = await subscription.receive(1, 0)
    assert (again.deliveries, again.redelivered) == (None, True)


def test_every_option_is_described() -> None:
    assert all(field.description for field in Options.model_fields.values())
