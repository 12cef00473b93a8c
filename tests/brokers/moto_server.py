"""moto, fit for many calls at once, for order and for queues of thousands. It is run in a container, where nothing of
this project is installed: instead of the image's own command.

- It takes no lock while it looks for messages, so that two threads would be given the same ones.
- What has been given back may go on to count as taken: if the clock reads the same twice, or the lease has ended. Of a
  group the last one would come first then.
- It asks a clock that is made for frozen time, and asks it for each message of a queue at each call.
- To find out for how long one message is kept, or whether a queue makes its ids of contents, it counts all messages of
  the queue, three times.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from moto.server import main
from moto.sqs import models
from moto.sqs.models import Message, Queue, SQSBackend

TURN = threading.Condition(threading.RLock())
LOOK_AGAIN = 0.05
"""Seconds between looks of a call that waits for messages; it lets others in meanwhile."""
send_message, receive_message = SQSBackend.send_message, SQSBackend.receive_message


def one_at_a_time(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **more: Any) -> Any:
        with TURN:
            return method(*args, **more)

    return call


def now() -> float:
    return time.time() * 1000


def is_visible(self: Message) -> bool:
    return bool(now() >= self.visible_at)


def forget_what_is_visible(queue: Queue) -> None:
    queue._pending_messages = {message for message in queue._pending_messages if not message.visible}


def wait_for_messages(self: Queue, timeout: int) -> None:
    TURN.wait(LOOK_AGAIN)
    forget_what_is_visible(self)


def receive_in_order(self: SQSBackend, queue_name: str, *args: Any, **more: Any) -> Any:
    forget_what_is_visible(self.get_queue(queue_name))
    return receive_message(self, queue_name, *args, **more)


def send_uncounted(self: SQSBackend, queue_name: str, *args: Any, **more: Any) -> Any:
    """It asks for this attribute alone."""
    by_content = getattr(self.get_queue(queue_name), "content_based_deduplication", False)
    with patch.object(Queue, "attributes", {"ContentBasedDeduplication": str(by_content).lower()}):
        return send_message(self, queue_name, *args, **more)


def is_kept_still(self: SQSBackend, queue_name: str, message: Message) -> bool:
    return bool(now() < message.sent_timestamp + 1000 * self.get_queue(queue_name).message_retention_period)


if __name__ == "__main__":
    models.unix_time_millis = now
    Message.visible = property(is_visible)
    Queue.wait_for_messages = wait_for_messages
    SQSBackend.is_message_valid_based_on_retention_period = is_kept_still
    SQSBackend.send_message = send_uncounted
    SQSBackend.receive_message = receive_in_order
    for name, method in list(vars(SQSBackend).items()):
        if callable(method) and not name.startswith("_"):
            setattr(SQSBackend, name, one_at_a_time(method))
    main()
