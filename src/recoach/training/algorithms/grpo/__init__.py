"""GRPO over a catalogue: its settings, the algorithm and its estimators."""
