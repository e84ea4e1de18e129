"""For the arena's tests."""

from __future__ import annotations

import pytest

with pytest.MonkeyPatch.context() as environment:
    # As in the process that ranks: on busy cores OpenBLAS's threads wait for each other far longer than they work.
    environment.setenv("OPENBLAS_NUM_THREADS", "1")
    import scipy.optimize  # noqa: F401
