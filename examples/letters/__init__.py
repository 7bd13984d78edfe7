"""The demonstration: a small convolutional network that reads noisy capital letters."""
