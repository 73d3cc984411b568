"""The process `sluice serve`: start, signals, logs and shutdown."""
