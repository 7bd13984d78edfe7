"""For all tests: a shell's background job ignores Ctrl-C, and so would the commands that tests interrupt."""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
