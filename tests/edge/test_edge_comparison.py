"""The picture of what was predicted and what was measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from mrlato_jax.drawing import LIGHT, UE_COLOUR, mixed
from mrlato_jax.edge.comparison import Predicted, both_schedules
from mrlato_jax.edge.ue import RESOURCES, Span


def test_both_schedules_stand_one_above_the_other_with_the_tasks_names() -> None:
    colours = pytest.importorskip("matplotlib.colors")
    model = Predicted(1.0, tuple(Span(i, name, 0.2 * i, 0.2 * i + 0.2, i) for i, name in enumerate(RESOURCES)))
    spans = tuple(span._replace(end=span.end + 0.1) for span in model.spans)
    run = SimpleNamespace(spans=spans, makespan=1.1)
    figure = both_schedules(cast(Any, run), model, ["camera", "detect", "track", "show"], "app")
    assert "predicted 1000 ms (pale), measured 1100 ms (+10.0 %)" in figure.get_suptitle()
    axes = figure.axes[0]
    assert sorted(text.get_text() for text in axes.texts) == sorted(["camera", "detect", "track", "show"] * 2)
    pale, measured = sorted(axes.patches, key=lambda bar: bar.get_y())[:2]
    assert (pale.get_width(), measured.get_width()) == pytest.approx((200, 300))
    assert pale.get_facecolor() == colours.to_rgba(mixed(UE_COLOUR, LIGHT))
    assert measured.get_facecolor() == colours.to_rgba(UE_COLOUR)
    assert pale.get_y() + pale.get_height() < measured.get_y()
