"""How many of a batch's traces may be missing before nothing is learned from those that are left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from actors.errors import UserError
from actors.messages import ScoredGroup


class TooManyFailed(UserError, RuntimeError):
    """Too many traces of a batch could not be generated; says how many, why, and which was the first."""


def refuse_failed(groups: Sequence[ScoredGroup], most: float) -> None:
    """Refuse a batch of which more than the share ``most`` of the traces could not be generated, asked for twice.

    What is left of such a batch is no sample of what was asked for: short traces come first.

    Raises:
        TooManyFailed: see there.

    """
    failures = [failure for group in groups for failure in group.failures]
    asked = len(failures) + sum(len(group.traces) + len(group.unscored) for group in groups)
    if not failures or len(failures) <= most * asked:
        return
    causes = ", ".join(f"{cause} {count}" for cause, count in Counter(one.cause for one in failures).most_common())
    first = failures[0]
    raise TooManyFailed(
        f"{len(failures)} of {asked} traces of this step could not be generated, asked for twice ({causes}); first: "
        f"prompt {first.prompt_uid}: {first.detail}. More than rl.max_failed_share={most:g} are not learned from: mend "
        "the cause, which the logs of the rollout workers have, or allow more, and run the same command again"
    )
