"""Models that read a history as a sequence."""
