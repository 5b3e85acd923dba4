"""Full ranking, metrics and significance tests."""
