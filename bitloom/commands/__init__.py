"""The commands, one file each. A module here imports nothing heavy before its command runs."""
