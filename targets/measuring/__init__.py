"""The devices on which the tuner measures kernels: this computer, boards, and emulated boards."""
