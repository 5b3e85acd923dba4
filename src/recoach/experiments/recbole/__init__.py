"""RecBole: its checkpoints, logs and settings, in and out."""
