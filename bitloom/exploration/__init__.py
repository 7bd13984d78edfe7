"""Many configurations of the NPU for one network: which are worth their silicon?"""
