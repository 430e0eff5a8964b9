"""What holds for all tests."""

from __future__ import annotations

import signal

# A shell starts its background jobs with interrupts ignored, and what they start inherits that: processes that tests
# interrupt would never notice.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
