"""Logs that SQL engines prepare: DuckDB and Spark."""
