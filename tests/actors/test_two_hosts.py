"""Groups that form between hosts whose names resolve to loopback, as they do on Debian and Ubuntu."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import two_hosts
from two_hosts import ADDRESSES, NoNamespaces, on

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def test_learners_and_a_weight_channel_meet_over_the_interface_of_their_nodes() -> None:
    script = Path(two_hosts.__file__)
    try:
        with two_hosts.two_hosts() as names:
            members = [
                subprocess.Popen(
                    on(name, [sys.executable, str(script), str(rank)]),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                    env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": f"{ROOT}:{script.parent}"},
                )
                for rank, name in enumerate(names)
            ]
            try:
                assert members[0].stdout is not None
                place = members[0].stdout.readline()
                assert place.split()[0] == place.split()[2] == ADDRESSES[0]
                said = [member.communicate(place, timeout=180)[0] for member in reversed(members)]
            finally:
                for member in members:
                    member.kill()
                    member.wait()
    except NoNamespaces as why:
        pytest.skip(str(why))
    assert said == ["judge1 3.0 4950.0\n", "judge0 3.0 4950.0\n"]
