"""Ctrl-C works in tests of it, also where the shell started them in the background."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
