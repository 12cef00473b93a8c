"""What is refused: everything that the options switched off, said with the option to change."""

from __future__ import annotations

from collections.abc import Sequence

from unibus.driver import Address, Outbound, Topic, TopicSubscription
from unibus.errors import DestinationNotFound, MessageTooLarge, UnsupportedCapability
from unibus.memory.options import Options


def check_address(options: Options, address: Address) -> None:
    """What a declared, consumed or addressed thing needs is there."""
    if address.ordering == "key" and options.ordering == "off":
        raise UnsupportedCapability(
            f'{address}: ordering="key" is switched off; use ordering=on in the URL, or ordering="none"'
        )
    if isinstance(address, TopicSubscription):
        _check_subscription(options, address)


def _check_subscription(options: Options, source: TopicSubscription) -> None:
    if source.group is not None and options.groups == "off":
        raise UnsupportedCapability(f"{source}: groups are switched off; use groups=on in the URL")
    if source.group is None and options.ephemeral == "off":
        raise UnsupportedCapability(
            f"{source}: subscriptions without a group are switched off; name a group, or use ephemeral=on in the URL"
        )
    patterns = [pattern for pattern in source.patterns if "*" in pattern or "#" in pattern]
    if patterns and options.patterns == "off":
        raise UnsupportedCapability(
            f"{source}: patterns are switched off, {', '.join(patterns)} is one; "
            "name topics, or use patterns=on in the URL"
        )
    if source.start == "earliest" and not (options.is_log and options.start_earliest == "on"):
        raise UnsupportedCapability(
            f'{source}: start="earliest" needs memory://?model=log with start_earliest=on; use start="new"'
        )


def check_send(options: Options, address: Address, messages: Sequence[Outbound]) -> None:
    """Raises before anything is stored."""
    if len(messages) > options.batch:
        raise ValueError(f"{len(messages)} messages in one call, the limit is {options.batch}")
    check_address(options, address)
    if isinstance(address, TopicSubscription) and address.group is None:
        raise UnsupportedCapability(f"{address} cannot be sent to: it has no group")
    special = [message for message in messages if message.delay or message.priority is not None]
    if special:
        _check_special(options, address, special)


def _check_special(options: Options, address: Address, messages: Sequence[Outbound]) -> None:
    for message in messages:
        if message.priority is not None:
            raise UnsupportedCapability(f"{address}: priority {message.priority}: memory has no priorities")
    delay = max(message.delay for message in messages)
    if isinstance(address, Topic):
        raise UnsupportedCapability(f"{address}: a delay of {delay} s: what is published to a topic has no delay")
    if options.delay == "off":
        raise UnsupportedCapability(
            f"{address}: a delay of {delay} s: delays are switched off; use delay=on in the URL"
        )
    if options.delay_max is not None and delay > options.delay_max:
        raise UnsupportedCapability(
            f"{address}: a delay of {delay} s is over the limit of {options.delay_max} s; raise delay_max in the URL"
        )


def too_large(options: Options, messages: Sequence[Outbound]) -> dict[int, Exception]:
    """The errors of messages whose body is over the limit, by index."""
    limit = options.max_body
    if limit is None:
        return {}
    sizes = enumerate(len(message.body or b"") for message in messages)
    return {index: MessageTooLarge(size, limit) for index, size in sizes if size > limit}


def not_found(address: Address) -> DestinationNotFound:
    kind = "group" if isinstance(address, TopicSubscription) else "queue"
    return DestinationNotFound(
        f"{kind} {address.name!r} does not exist; start its consumer once, or declare it before use"
    )
