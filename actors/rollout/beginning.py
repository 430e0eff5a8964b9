"""What a process of vLLM's runs first, before it imports vLLM; :mod:`actors.rollout.launching` sees to it."""

import ctypes
import signal

from actors.collector import collect_seldom

_PR_SET_PDEATHSIG = 1

collect_seldom()
# It ends with the process that started it, by the kernel's hand: also while it is stopped, or stuck in its imports.
ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
