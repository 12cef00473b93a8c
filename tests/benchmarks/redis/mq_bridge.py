"""mq-bridge, whose core is Rust, in its fastest shape: blocking calls with a batch each, a handler in Python."""

from __future__ import annotations

import threading
import time
from typing import Any

from mq_bridge import Message, Publisher, Route

from tests.benchmarks.load import BATCH, Figures, Handled, order_at
from tests.benchmarks.task import Task
from tests.benchmarks.work import Order


def publish(task: Task) -> Figures:
    publisher = Publisher.from_config(_endpoint(task))
    began = time.perf_counter()
    for start in range(0, task.count, BATCH):
        numbers = range(start, min(start + BATCH, task.count))
        publisher.send_batch([Message(order_at(number).model_dump_json().encode()) for number in numbers])
    return {"a second": task.count / (time.perf_counter() - began)}


send_many = fill = publish


def consume(task: Task) -> Figures:
    done = threading.Event()
    handled = Handled(task.count, done.set)
    endpoint = _endpoint(task, group="handlers", read_from_start=True)
    config = {"input": endpoint, "output": {"null": None}, "batch_size": BATCH}

    def handle(message: Message) -> None:
        handled.one(Order.model_validate_json(message.payload))

    route = Route.from_config(config, "bench").with_handler(handle)
    route.start()
    done.wait()
    route.stop()
    route.join()
    return handled.figures()


def _endpoint(task: Task, **options: object) -> dict[str, Any]:
    return {"redis_streams": {"url": task.url, "stream": task.name, **options}}
