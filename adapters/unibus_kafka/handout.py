"""Records become deliveries, and may do so again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiokafka.structs import TopicPartition

from unibus.driver import Delivery
from unibus_kafka.partition import SUSPECT, Partition
from unibus_kafka.records import Place, delivery_of, was_sent_to_queue


class Handout:
    """Of one subscription. own_topic: the one whose records need not say their address, since it is a name of ours.
    patterned: whether it reads other topics, too: those that match its patterns.
    """

    def __init__(self, own_topic: str, address: str, *, ordered: bool, patterned: bool) -> None:
        self._own_topic = own_topic
        # What it is called where a record does not say.
        self._address = address
        self._ordered = ordered
        self._patterned = patterned
        self._seen: dict[TopicPartition, int] = {}

    def first(self, partition: Partition, records: Iterable[Any]) -> list[Delivery]:
        """They are in hand from now on."""
        taken = []
        mark, lives, seen = partition.mark, partition.lives, self._seen.get(partition.tp, -1)
        for record in records:
            offset = record.offset
            if self._patterned and record.topic != self._own_topic and was_sent_to_queue(record.headers):
                mark.skip(offset)  # a queue is a topic, too, which patterns may match
                continue
            delivery = delivery_of(
                record, Place(partition, offset), self._address_of(record), count=1, again=offset <= seen
            )
            if lives.dead:
                delivery.deliveries = count = lives.deliveries(offset, suspect=SUSPECT in delivery.attributes)
                delivery.redelivered |= count > 1
            mark.take(offset, delivery)
            taken.append(delivery)
        if taken:
            self._seen[partition.tp] = max(seen, taken[-1].token.offset)
        return taken

    def again(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """In the places of those that were given back. What belongs to a partition that is being taken away is kept
        with it, and not returned."""
        fresh: list[Delivery] = []
        for old in deliveries:
            partition, offset = old.token.partition, old.token.offset
            # A rebalance, or a place in a row, is nothing that a message could have done.
            count = (old.deliveries or 1) + (not partition.revoked and not self._ordered)
            place = Place(partition, offset)
            again = delivery_of(old.native, place, self._address_of(old.native), count=count, again=True)
            if partition.mark.give_back(offset, again):
                (partition.kept_back if partition.revoked else fresh).append(again)
        return fresh

    def forget(self, tp: TopicPartition) -> None:
        """Its offsets mean other records now."""
        self._seen.pop(tp, None)

    def _address_of(self, record: Any) -> str | None:
        return self._address if record.topic == self._own_topic else None
