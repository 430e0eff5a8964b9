"""What a process of vLLM's runs first, before it imports vLLM; :mod:`actors.rollout.launching` sees to it."""

from actors.collector import collect_seldom

collect_seldom()
