"""Real brokers for tests, in containers on 127.0.0.1: `broker("rabbitmq").url`.

`python -m tests.brokers up rabbitmq` starts one to play with, `python -m tests.brokers build` makes all images.
"""

from tests.brokers.errors import BrokerUnavailable, NotOurs
from tests.brokers.servers import Broker, broker

__all__ = ["Broker", "BrokerUnavailable", "NotOurs", "broker"]
