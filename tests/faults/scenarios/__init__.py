"""The faults, each a function over a run on any server that has what it needs."""
