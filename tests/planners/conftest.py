"""The two engines of the planners: machine code, and JAX where numba is not installed."""

from __future__ import annotations

import pytest

from mrlato_jax.planners import engine


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "machine_code", lambda: None)


@pytest.fixture(params=["machine_code", pytest.param("jax", marks=pytest.mark.slow)])
def either_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "jax":
        monkeypatch.setattr(engine, "machine_code", lambda: None)
    else:
        assert engine.machine_code() is not None
