"""Side-by-side measurements against peers; nothing here is a test of time."""
