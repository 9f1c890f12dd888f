"""A small share of the bad inputs that scripts/fuzz.py is for; .ci/run takes a minute of them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_bad_inputs_end_well_or_in_one_line():
    call = [sys.executable, str(ROOT / "scripts/fuzz.py"), "--seconds", "10", "--seed", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, total, told = done.stdout.splitlines()
    assert int(total.split()[-1]) >= 5 and "cases in" in told
