"""Each aircraft's flights are handled in order, although some fail, and no aircraft waits for another."""
