"""Idempotent handling: who may handle a key, and what is done already."""
