"""Re-rankers: choose each list from the best items of a model, without further training."""
