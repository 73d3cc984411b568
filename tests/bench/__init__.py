"""The project's own measurements: `python -m tests.bench` (`make bench`), `.parsers`, `.upstream`."""
