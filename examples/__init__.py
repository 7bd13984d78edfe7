"""Small complete programs; run them from the repository's root, `python -m examples.<name>.<program>`."""
