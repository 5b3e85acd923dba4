"""Fine-tuning algorithms: one file and one config class each, listed in `registry`."""
