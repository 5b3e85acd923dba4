"""Filter and split logs that do not fit into memory, with SQL."""
