"""unibus on Redis beside what else there is: `python -m tests.benchmarks.redis`."""
