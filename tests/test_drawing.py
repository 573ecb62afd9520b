"""What figures share: short names, fonts, and bars that can be told apart."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from mrlato_jax import drawing
from mrlato_jax.drawing import Bar, Strip, crowded, families_for, gantt, labels_of, png, short_names

CAMERA = "\u76f8\u673a"  # in Chinese


def test_short_names_stay_as_they_are() -> None:
    names = ("camera", "detect", "a$\\q$")
    assert short_names(names) == (names, "")


def test_a_common_beginning_is_left_out_once_and_said() -> None:
    names = [f"/model/encoder/layer.{i}/{part}" for i in range(12) for part in ("query", "key")]
    texts, common = short_names(names)
    assert common == "/model/encoder/layer."
    assert texts[0] == "0/query"
    assert texts == tuple(name.removeprefix(common) for name in names)


def test_a_common_beginning_is_no_part_of_a_word_or_number() -> None:
    assert short_names(["convolution_1_relu", "convolution_12_relu"]) == (("1_relu", "12_relu"), "convolution_")
    assert short_names(["normalisation_of_1", "normalisation_of_"])[1] == ""  # a name must be left


@pytest.mark.parametrize(
    "names",
    [
        [f"{i:02}_detect_faces_in_frames" for i in range(40)],  # they differ in front
        [f"{'abcdefghij'[i % 10]}_detect_faces_{i}" for i in range(40)],  # at both ends
        [f"{'x' * 20}{i:03}{'y' * 20}" for i in range(200)],  # in the middle alone
        ["z" * 40 + letter + "z" * k for k, letter in enumerate("abcdef", start=30)],
        ["\x1b" * 5, "\\x1b" * 5, "b" * 30],  # alike once they are escaped
    ],
)
def test_long_names_are_short_and_stay_different(names: list[str]) -> None:
    texts, _ = short_names(names)
    assert len(set(texts)) == len(names)
    assert max(map(len, texts)) <= drawing.LONGEST_LABEL
    assert all(text.isprintable() for text in texts)


def test_letters_that_no_font_has_are_said_once_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = pytest.importorskip("matplotlib.font_manager").fontManager
    monkeypatch.setattr(manager, "ttflist", [font for font in manager.ttflist if font.name == drawing.FAMILY])
    with pytest.warns(UserWarning, match=f"no font on this machine has the letters {''.join(sorted(CAMERA))};") as told:
        labels = labels_of(["camera", f"face{CAMERA}", CAMERA])
    assert len(told) == 1  # not one for each letter
    assert labels.texts == ("camera", "task 1", "task 2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert labels_of(["d\u00e9tecteur", "\u0434\u0435\u0442", "a b"]).families == (drawing.FAMILY,)


def test_a_font_of_the_system_is_used_where_the_first_lacks_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = pytest.importorskip("matplotlib.font_manager")

    class Font:
        """Has some letters."""

        def __init__(self, letters: str) -> None:
            self.letters = letters

        def get_charmap(self) -> dict[int, int]:
            return dict.fromkeys(map(ord, self.letters), 1)

    entry = manager.FontEntry
    fonts = {"first": (drawing.FAMILY, "ab"), "other": ("Other", "b"), "cjk": ("Has CJK", CAMERA + "a"),
             "last": (f"{drawing.LAST_RESORT} Font", "ab" + CAMERA + "\ue123")}  # fmt: skip
    found = [entry(fname=file, name=name, style="normal", weight=400) for file, (name, _) in fonts.items()]
    monkeypatch.setattr(manager.fontManager, "ttflist", found)
    monkeypatch.setattr(manager, "get_font", lambda file: Font(fonts[file][1]))
    assert families_for("a b") == ((drawing.FAMILY,), frozenset())
    assert families_for("a" + CAMERA) == ((drawing.FAMILY, "Has CJK"), frozenset())
    assert families_for(CAMERA + "\ue123") == ((drawing.FAMILY, "Has CJK"), frozenset("\ue123"))


def test_crowds_by_hand() -> None:
    ends = [(0, 1), (1, 2), (2, 3), (5, 6), (9, 10), (10, 11), (11, 20)]
    bars = [Bar(start, end, "", "#000000") for start, end in ends]
    narrow = [end - start < 2 for start, end in ends]
    assert list(crowded(bars, narrow, near=0.5)) == [(0, 3), (4, 6)]
    assert list(crowded(bars, narrow, near=2.5)) == [(0, 4), (4, 6)]
    assert list(crowded([], [], near=1.0)) == []


def chart(bars: list[Bar], seconds: float) -> Any:
    plots = pytest.importorskip("matplotlib.figure")
    axes = plots.Figure(figsize=(8, 2)).add_axes((0.1, 0.2, 0.8, 0.6))
    axes.set_ylim(0.5, -0.5)
    gantt(axes, [Strip(0, 0.7, bars, "transfers")], seconds, (drawing.FAMILY,))
    return axes


def test_short_transfers_side_by_side_are_counted_and_alternate() -> None:
    bars = [Bar(0.003 * i, 0.003 * (i + 1), f"t{i}", "#EECA3B") for i in range(55)]
    bars.append(Bar(3.0, 6.0, "long", "#EECA3B"))
    axes = chart(bars, 6.0)
    assert [text.get_text() for text in axes.texts] == ["long", "55 transfers"]
    colours = [patch.get_facecolor() for patch in axes.patches]
    assert all(first != second for first, second in pairwise(colours[:55]))
    assert colours[55] == colours[0]
    many = [Bar(0.5 * i + 0.003 * j, 0.5 * i + 0.003 * (j + 1), "", "#EECA3B") for i in range(12) for j in range(3)]
    assert not chart(many, 6.0).texts  # a dozen counts would be all that is seen
    alone = chart([Bar(i, i + 0.003, "", "#EECA3B") for i in range(5)], 6.0)
    assert len({patch.get_facecolor() for patch in alone.patches}) == 1
    assert all(patch.get_linewidth() > 0 and patch.get_edgecolor() == patch.get_facecolor() for patch in alone.patches)


def test_a_label_is_within_its_bar_or_left_out() -> None:
    rng, start, bars = np.random.default_rng(0), 0.0, []
    for i, width in enumerate(rng.uniform(0.08, 0.6, 40)):
        bars.append(Bar(start, start + width, "a name" if i % 2 else f"{i}", "#F58518"))
        start += width
    axes = chart(bars, start)
    renderer = axes.figure.canvas.get_renderer()
    named = {text.get_text() for text in axes.texts}
    assert {"a name", "0"} <= named
    spans = [patch.get_window_extent(renderer) for patch in axes.patches]
    for text in axes.texts:
        box = text.get_window_extent(renderer)
        middle = (box.x0 + box.x1) / 2
        (span,) = [span for span in spans if span.x0 <= middle <= span.x1]
        assert span.x0 <= box.x0 + 0.5
        assert box.x1 <= span.x1 + 0.5
        assert span.y0 <= box.y0 + 0.5
        assert box.y1 <= span.y1 + 0.5
    assert {text.get_rotation() for text in axes.texts} == {0.0, 90.0}
    assert png(axes.figure).startswith(b"\x89PNG")


def test_ink_can_be_read_on_every_colour() -> None:
    colours = [drawing.UE_COLOUR, *drawing.SERVER_COLOURS, *drawing.LINK_COLOURS.values()]

    def light(colour: str) -> float:  # relative luminance, W3C
        if not colour.startswith("#"):
            colour = {"white": "#ffffff"}[colour]
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for colour in colours + [drawing.mixed(colour, drawing.LIGHT) for colour in colours]:
        dark, bright = sorted([light(colour), light(drawing.ink_on(colour))])
        assert (bright + 0.05) / (dark + 0.05) >= 3
