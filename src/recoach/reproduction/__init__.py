"""The paper's tables, the measured gains and their ablations: cells, aggregation, tables."""
