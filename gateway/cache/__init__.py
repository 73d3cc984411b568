"""Response cache: kept answers, and the coalescing of equal requests that are under way together."""
