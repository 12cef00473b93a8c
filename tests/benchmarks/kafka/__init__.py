"""unibus on Kafka beside what else there is: `python -m tests.benchmarks.kafka`."""
