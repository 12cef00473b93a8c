"""mq-bridge, whose core is Rust, in its fastest shape: blocking calls with a batch each, a handler in Python."""

from __future__ import annotations

import threading
import time
from typing import Any
from urllib.parse import urlsplit

from mq_bridge import Message, Publisher, Route

from tests.benchmarks.load import BATCH, PREFETCH, Figures, Handled, order_at
from tests.benchmarks.task import Impossible, Task
from tests.benchmarks.work import Order


def publish(task: Task) -> Figures:
    publisher = Publisher.from_config(_endpoint(task))
    began = time.perf_counter()
    for start in range(0, task.count, BATCH):
        numbers = range(start, min(start + BATCH, task.count))
        publisher.send_batch([Message(order_at(number).model_dump_json().encode()) for number in numbers])
    return {"a second": task.count / (time.perf_counter() - began)}


def consume(task: Task) -> Figures:
    done = threading.Event()
    handled = Handled(task.count, done.set)
    config = {"input": _endpoint(task, prefetch_count=PREFETCH), "output": {"null": None}, "batch_size": BATCH}

    def handle(message: Message) -> None:
        handled.one(Order.model_validate_json(message.payload))

    route = Route.from_config(config, "bench").with_handler(handle)
    try:
        route.start()
    except RuntimeError as error:
        if "inequivalent arg 'x-queue-type'" not in str(error):
            raise
        # What it consumes from it declares first, without a type.
        raise Impossible("it consumes only from the type of queue that is the virtual host's default") from error
    done.wait()
    route.stop()
    route.join()
    return handled.figures()


def _endpoint(task: Task, **options: object) -> dict[str, Any]:
    # It takes a URL without a virtual host for one with an empty name.
    url = task.url if urlsplit(task.url).path.strip("/") else f"{task.url.rstrip('/')}/%2f"
    return {"amqp": {"url": url, "queue": task.name, "no_declare_queue": True, **options}}
