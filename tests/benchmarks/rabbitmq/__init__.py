"""unibus on RabbitMQ beside what else there is: `python -m tests.benchmarks.rabbitmq`."""
