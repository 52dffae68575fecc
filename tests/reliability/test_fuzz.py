# SPDX-License-Identifier: Apache-2.0
"""Arbitrary and mutated bytes for everything that reads: short here, long by `make fuzz`.

FUZZ_MINUTES, of all targets together, goes on with other examples for so long.
"""

import os
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))

from targets import TARGETS

MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
EXAMPLES = {"checkpoint": 10}
LONG_EXAMPLES = 2000


@st.composite
def mutations(draw, seeds):
    """A seed of which some places are overwritten, cut out, doubled or filled in."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(data)))
        stop = min(len(data), place + draw(st.integers(0, 8)))
        what = draw(st.sampled_from(["overwrite", "cut", "double", "fill in", "end"]))
        if what == "overwrite":
            new = draw(st.binary(min_size=stop - place, max_size=stop - place))
            data[place:stop] = new
        elif what == "fill in":
            data[place:place] = draw(st.binary(max_size=8) | st.sampled_from(WORDS))
        elif what == "double":
            data[place:place] = data[place:stop] * draw(st.integers(1, 50))
        else:
            del data[place : len(data) if what == "end" else stop]
    return bytes(data)


WORDS = [b"null", b"-1", b"1e400", b"99999999", b'"', b"[]", b"{}", b"\x00", b"\n", b"\r", b"true",
         b"\xff" * 8, b"\xef\xbb\xbf", b"0" * 20]  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_read_or_refused(name):
    target = TARGETS[name]
    seeds = target.seeds()
    count = 0

    @settings(
        max_examples=LONG_EXAMPLES if MINUTES else EXAMPLES.get(name, 40),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(max_size=400) | mutations(seeds))
    def run(data):
        nonlocal count
        count += 1
        target.run(data)

    for seed in seeds:
        target.run(seed)
    end = time.monotonic() + MINUTES * 60 / len(TARGETS)
    run()
    while time.monotonic() < end:
        run()
    print(f"{name}: {count} executions")


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent / "fuzz" / "found").iterdir()), ids=lambda path: path.name
)
def test_what_once_crashed_is_read_or_refused(path):
    TARGETS[path.name.split("-")[0]].run(path.read_bytes())
