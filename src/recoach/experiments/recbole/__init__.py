"""Import and export of RecBole: checkpoints, logs and settings."""
