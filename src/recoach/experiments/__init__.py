"""One run: config, folder, stages, record."""
