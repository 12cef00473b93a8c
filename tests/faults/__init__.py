"""Faults, for real: processes that publish and consume, a broker that is killed under them, and a judge.

`pytest tests/faults --fault-count 20000 --fault-seed 7`. Every process writes what it does into a
journal that survives its death. The judge reads the journals and compares sets of ids, since equal
counts would hide a loss behind a duplicate.
"""
