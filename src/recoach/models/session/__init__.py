"""Models that read a history as a graph of its distinct items (session-graph models)."""
