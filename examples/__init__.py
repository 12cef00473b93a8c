"""One idea a file. Each runs as it stands: `python -m examples.work_queue`, on any broker by `--url`."""
