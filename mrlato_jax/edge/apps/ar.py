"""Augmented reality: one frame from the camera to the screen.

The camera sees a poster with an object of one of five shapes. The application finds the pose of the poster by matching
corners with a map of known points, and the object by its outline. Then it draws a ring that stands on the poster, and a
frame around the object. Camera and screen are at the UE; the map is at the server.

The result of a task depends only on its inputs. No task uses matrix products, since their time depends on the number of
threads that a BLAS uses.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from mrlato_jax.edge.application import Application

ROWS, COLUMNS = 144, 176  # of a frame
POSTER_ROWS, POSTER_COLUMNS = 120, 150
NOISE = 4.0  # noise of the camera, grey levels
SHAPES = ("disc", "square", "triangle", "ring", "cross")
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 230)}
OBJECT = 11  # pixels from the middle of an object to its edge
MAP_POINTS = 40_000
CORNERS = 200
BORDER = 17  # pixels at the edge of a frame without corners
BITS = 256  # bits of a descriptor
HYPOTHESES = 16_000
NEAR = 2.0  # pixels
RING = (28.0, 9.0)  # pixels: radius of the ring, and of its tube

app = Application("ar")


class Scene(NamedTuple):
    """The scene before the camera. Places are complex numbers: column + 1j * row.

    Attributes:
        turn: a place p on the poster, relative to its centre, appears in the frame at `turn` * p + `shift`.
        shift: place of the poster's centre in the frame.
        shape: shape of the object.
        colour: colour of the object.
        place: place of the object in the frame.
    """

    turn: complex
    shift: complex
    shape: str
    colour: str
    place: complex


def scene(seed: int) -> Scene:
    """Returns the scene of a seed."""
    random = np.random.default_rng(seed)
    scale, angle, right, down = random.uniform((0.95, -0.3, -6.0, -6.0), (1.1, 0.3, 6.0, 6.0))
    shape = SHAPES[int(random.random() * len(SHAPES))]
    colour = list(COLOURS)[int(random.random() * len(COLOURS))]
    column, row = random.uniform((40, 40), (COLUMNS - 40, ROWS - 40))
    shift = complex(COLUMNS / 2 + right, ROWS / 2 + down)
    return Scene(complex(scale * np.exp(1j * angle)), shift, shape, colour, complex(column, row))


def _places(rows: int, columns: int) -> np.ndarray:
    """Returns complex[rows, columns], the place of each pixel."""
    return np.arange(columns)[None, :] + 1j * np.arange(rows)[:, None]


def _sum(images: Iterable[np.ndarray]) -> np.ndarray:
    return functools.reduce(np.add, images)


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Returns the image blurred by a Gaussian."""
    reach = int(3 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        size = image.shape[axis]
        padded = np.pad(image, [(reach, reach) if one == axis else (0, 0) for one in (0, 1)], "edge")
        image = _sum(
            np.float32(weight) * padded.take(range(start, start + size), axis) for start, weight in enumerate(weights)
        )
    return image


def _poster() -> np.ndarray:
    """Draws the poster, float32[POSTER_ROWS, POSTER_COLUMNS] grey levels: rectangles with distinctive corners."""
    random = np.random.default_rng(1)
    image = np.full((POSTER_ROWS, POSTER_COLUMNS), 120.0, np.float32)
    for _ in range(160):
        row, column = (random.random(2) * image.shape).astype(int)
        height, width = (4 + random.random(2) * 18).astype(int)
        image[row : row + height, column : column + width] = 20 + 215 * random.random()
    return _blurred(image, 0.7)


def _inside(shape: str, places: np.ndarray) -> np.ndarray:
    """Returns which places, relative to the centre of an object, are inside the object."""
    across, down, radius = np.abs(places.real), places.imag, np.abs(places)
    match shape:
        case "disc":
            return radius <= OBJECT
        case "square":
            return (across <= 0.85 * OBJECT) & (np.abs(down) <= 0.85 * OBJECT)
        case "triangle":
            return (down <= 0.7 * OBJECT) & (across <= 0.6 * (down + OBJECT))
        case "ring":
            return (radius <= OBJECT) & (radius >= 0.55 * OBJECT)
        case _:
            return (radius <= OBJECT) & (np.minimum(across, np.abs(down)) <= 0.3 * OBJECT)


_POSTER = _poster()


@app.task(pin="ue")
def capture(seed: int) -> np.ndarray:
    """Returns a frame of the camera, uint8[ROWS, COLUMNS, 3]."""
    seen = scene(seed)
    places = _places(ROWS, COLUMNS)
    middle = complex((POSTER_COLUMNS - 1) / 2, (POSTER_ROWS - 1) / 2)
    on_poster = (places - seen.shift) / seen.turn + middle
    columns, rows = on_poster.real, on_poster.imag
    covered = (rows >= 0) & (rows < POSTER_ROWS - 1) & (columns >= 0) & (columns < POSTER_COLUMNS - 1)
    left = np.where(covered, columns, 0).astype(int)
    top = np.where(covered, rows, 0).astype(int)
    right_share, low_share = columns - left, rows - top
    upper = (1 - right_share) * _POSTER[top, left] + right_share * _POSTER[top, left + 1]
    lower = (1 - right_share) * _POSTER[top + 1, left] + right_share * _POSTER[top + 1, left + 1]
    wall = 150 + 0.2 * places.real - 0.3 * places.imag
    level = np.where(covered, (1 - low_share) * upper + low_share * lower, wall)
    frame = np.repeat(level[:, :, None], 3, axis=2)
    frame[_inside(seen.shape, places - seen.place)] = COLOURS[seen.colour]
    noise = NOISE * np.random.default_rng([seed, 1]).standard_normal(frame.shape)
    return np.clip(frame + noise + 0.5, 0, 255).astype(np.uint8)


@app.task
def grey(frame: np.ndarray) -> np.ndarray:
    """Returns the brightness of each pixel, uint8[ROWS, COLUMNS]."""
    red, green, blue = (frame[:, :, channel].astype(np.uint16) for channel in range(3))
    return ((77 * red + 151 * green + 28 * blue) >> 8).astype(np.uint8)


@app.task
def corners(image: np.ndarray) -> np.ndarray:
    """Finds corners (Harris) at four scales, to half a pixel: float32[<= CORNERS, 3], column, row and strength."""
    fine = image.astype(np.float32).repeat(2, axis=0).repeat(2, axis=1)
    strength = np.zeros_like(fine)
    for scale in (2.0, 2.5, 3.0, 3.5):
        down, right = np.gradient(_blurred(fine, scale / 2))
        xx, yy, xy = (_blurred(product, scale) for product in (right * right, down * down, right * down))
        strength = np.maximum(strength, (xx * yy - xy * xy - 0.05 * (xx + yy) ** 2) * np.float32(scale**4))
    highest = strength.copy()
    for axis in (0, 1):
        for distance in (1, 2, 4):  # together seven pixels in each direction
            ahead, behind = np.roll(highest, distance, axis), np.roll(highest, -distance, axis)
            highest = np.maximum(highest, np.maximum(ahead, behind))
    edge = 2 * BORDER
    peaks = strength == highest
    peaks[:edge], peaks[-edge:], peaks[:, :edge], peaks[:, -edge:] = False, False, False, False
    rows, columns = np.nonzero(peaks)
    order = np.argsort(-strength[rows, columns], kind="stable")[:CORNERS]
    rows, columns = rows[order], columns[order]
    return np.stack([columns / 2 - 0.25, rows / 2 - 0.25, strength[rows, columns]], axis=1).astype(np.float32)


@app.task
def denoised(image: np.ndarray) -> np.ndarray:
    """Removes the camera's noise (non-local means): averages pixels with similar surroundings; returns uint8."""
    reach, patch = 4, 2
    wide = reach + patch
    padded = np.pad(image.astype(np.float32), wide, "reflect")
    rows, columns = image.shape
    total, weights = np.zeros(image.shape, np.float32), np.zeros(image.shape, np.float32)
    near = padded[reach : reach + rows + 2 * patch, reach : reach + columns + 2 * patch]
    for down in range(2 * reach + 1):
        for right in range(2 * reach + 1):
            other = padded[down : down + rows + 2 * patch, right : right + columns + 2 * patch]
            unlike = (near - other) ** 2
            unlike = _sum(unlike[shift : shift + rows] for shift in range(2 * patch + 1))
            unlike = _sum(unlike[:, shift : shift + columns] for shift in range(2 * patch + 1))
            weight = np.exp(unlike * np.float32(-1 / (25 * 2.5 * NOISE**2)))
            total += weight * other[patch : patch + rows, patch : patch + columns]
            weights += weight
    return (total / weights + 0.5).astype(np.uint8)


def _pairs() -> np.ndarray:
    """Returns the pairs of places around a corner that a descriptor compares, complex[BITS, 2]."""
    spread = np.random.default_rng(2).uniform(-1, 1, (BITS, 2, 2, 2)).sum(axis=-1)
    return 5.5 * (spread[..., 0] + 1j * spread[..., 1])


_PAIRS = _pairs()
_AROUND = _places(15, 15) - (7 + 7j)
_AROUND = _AROUND[np.abs(_AROUND) <= 7.5]


@app.task
def describe(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Computes oriented binary descriptors (ORB), uint8[n, BITS / 8]: which place of each pair is brighter."""
    places = points[:, 0] + 1j * points[:, 1]
    smooth = _blurred(image.astype(np.float32), 1.5)

    def level(at: np.ndarray) -> np.ndarray:
        return smooth[np.rint(at.imag).astype(int), np.rint(at.real).astype(int)]

    centre = (level(places[:, None] + _AROUND) * _AROUND).sum(axis=1)
    turns = np.exp(1j * np.angle(centre))
    levels = level(places[:, None, None] + turns[:, None, None] * _PAIRS)
    return np.packbits(levels[..., 0] > levels[..., 1], axis=1)


def _map() -> tuple[np.ndarray, np.ndarray]:
    """Builds the map: descriptors uint64[MAP_POINTS, 4] and places on the poster complex[MAP_POINTS] of known points.

    The first points belong to the poster; the others lie far away from it.
    """
    wall = np.full((POSTER_ROWS + 2 * BORDER, POSTER_COLUMNS + 2 * BORDER), 140, np.uint8)
    wall[BORDER:-BORDER, BORDER:-BORDER] = _POSTER
    points = corners(wall)
    known = describe(wall, points)
    middle = complex((wall.shape[1] - 1) / 2, (wall.shape[0] - 1) / 2)
    random = np.random.default_rng(3)
    others = np.frombuffer(random.bytes((MAP_POINTS - len(known)) * BITS // 8), np.uint8).reshape(-1, BITS // 8)
    places = np.full(MAP_POINTS, 1e6 + 0j)
    places[: len(known)] = points[:, 0] + 1j * points[:, 1] - middle
    return np.concatenate([known, others]).view(np.uint64), places


_MAP = _map()  # only `match` uses it


@app.task(pin="server")
def match(descriptors: np.ndarray) -> np.ndarray:
    """Finds known corners: float32[k, 3], the index of the corner, and its column and row on the poster."""
    known, places = _MAP
    matches = []
    for number, one in enumerate(np.ascontiguousarray(descriptors).view(np.uint64)):
        unlike = np.bitwise_count(known ^ one)
        distance = (unlike[:, 0] + unlike[:, 1]).astype(np.uint16) + unlike[:, 2] + unlike[:, 3]
        best = int(distance.argmin())
        least = int(distance[best])
        distance[best] = BITS
        if least < 0.8 * int(distance.min()):
            matches.append((number, places[best].real, places[best].imag))
    return np.array(matches, np.float32).reshape(-1, 3)


@app.task
def pose(points: np.ndarray, matches: np.ndarray) -> np.ndarray:
    """Estimates the pose (RANSAC): float64[5], real and imaginary parts of `turn` and `shift`, number of inliers."""
    known = matches[:, 1].astype(float) + 1j * matches[:, 2]
    numbers = matches[:, 0].astype(int)
    seen = points[numbers, 0].astype(float) + 1j * points[numbers, 1]
    if len(set(known)) < 2:
        return np.array([1.0, 0.0, COLUMNS / 2, ROWS / 2, 0.0])
    first, second = (np.random.default_rng(4).random((2, HYPOTHESES)) * len(known)).astype(int)
    apart = known[first] - known[second]
    first, second, apart = first[apart != 0], second[apart != 0], apart[apart != 0]
    turns = (seen[first] - seen[second]) / apart
    shifts = seen[first] - turns * known[first]
    agree = np.abs(turns[:, None] * known + shifts[:, None] - seen) <= NEAR
    chosen = agree[int(agree.sum(axis=1).argmax())]
    turn, shift = 1 + 0j, complex(COLUMNS / 2, ROWS / 2)
    for _ in range(3):  # least squares over the inliers
        here, there = known[chosen], seen[chosen]
        from_middle = here - here.mean()
        turn = complex((from_middle.conj() * there).sum() / (np.abs(from_middle) ** 2).sum())
        shift = complex(there.mean() - turn * here.mean())
        again = np.abs(turn * known + shift - seen) <= NEAR
        chosen = again if len(set(known[again])) >= 2 else chosen
    return np.array([turn.real, turn.imag, shift.real, shift.imag, float(chosen.sum())])


@app.task
def shrink(frame: np.ndarray) -> np.ndarray:
    """Returns the frame at half its size, uint8[ROWS / 2, COLUMNS / 2, 3]."""
    wide = frame.astype(np.uint16)
    return ((wide[::2, ::2] + wide[1::2, ::2] + wide[::2, 1::2] + wide[1::2, 1::2]) >> 2).astype(np.uint8)


def _templates() -> np.ndarray:
    """Returns templates of the outlines at half size, float32[shapes, turns, 17, 17], with mean 0 and norm 1."""
    grid = 2 * (_places(17, 17) - (8 + 8j))
    outlines = []
    for shape in SHAPES:
        for angle in np.linspace(-0.4, 0.4, 5):
            outline = _inside(shape, grid * np.exp(1j * angle)).astype(np.float32)
            outline -= outline.mean()
            outlines.append(outline / np.sqrt((outline**2).sum()))
    return np.array(outlines, np.float32).reshape(len(SHAPES), -1, 17, 17)


_TEMPLATES = _templates()


@app.task
def correlate(small: np.ndarray) -> np.ndarray:
    """Computes how well each shape fits at each place, float32[shapes, ROWS / 4, COLUMNS / 4]."""
    colourful = small.max(axis=2).astype(np.float32) - small.min(axis=2)
    rows, columns = colourful.shape
    padded = np.pad(colourful, 8)
    fits = np.full((len(SHAPES), rows, columns), -np.inf, np.float32)
    for shape, turns in enumerate(_TEMPLATES):
        for template in turns:
            fit = np.zeros((rows, columns), np.float32)
            for down, line in enumerate(template):
                for right, weight in enumerate(line):
                    fit += weight * padded[down : down + rows, right : right + columns]
            np.maximum(fits[shape], fit, out=fits[shape])
    return fits.reshape(len(SHAPES), rows // 2, 2, columns // 2, 2).max(axis=(2, 4))


@app.task
def recognise(small: np.ndarray, fits: np.ndarray) -> dict[str, Any]:
    """Returns shape and colour of the object, its place in the frame, and the quality of the fit."""
    shape, row, column = (int(place) for place in np.unravel_index(int(fits.argmax()), fits.shape))
    near = small[max(0, 2 * row - 6) : 2 * row + 7, max(0, 2 * column - 6) : 2 * column + 7].reshape(-1, 3).astype(int)
    vivid = near[(near.max(axis=1) - near.min(axis=1)) > 60]
    mean = vivid.mean(axis=0) if len(vivid) else np.zeros(3)
    colour = min(COLOURS, key=lambda name: float(np.abs(np.array(COLOURS[name]) - mean).sum()))
    return {"shape": SHAPES[shape], "colour": colour, "at": [4 * column + 2, 4 * row + 2], "fit": float(fits.max())}


@app.task
def render(where: np.ndarray, thing: dict[str, Any]) -> np.ndarray:
    """Draws the overlay, uint8[ROWS, COLUMNS]: 0 nothing, 1 the object's frame, from 2 the ring's brightness."""
    turn, shift = complex(where[0], where[1]), complex(where[2], where[3])
    around, about = np.meshgrid(np.linspace(0, 2 * np.pi, 700, False), np.linspace(0, 2 * np.pi, 200, False))
    radius = RING[0] + RING[1] * np.cos(about)
    across, height, depth = radius * np.cos(around), -radius * np.sin(around), RING[1] * np.sin(about)
    nearer = 0.5 * depth - height  # seen from above at an angle
    at = turn * (across + 1j * (0.6 * height + 0.8 * depth)) + shift
    normal = np.stack([np.cos(about) * np.cos(around), -np.cos(about) * np.sin(around), np.sin(about)])
    light = np.clip(0.5 * normal[0] - 0.6 * normal[1] + 0.6 * normal[2], 0, 1)
    columns, rows = np.rint(at.real).astype(int).ravel(), np.rint(at.imag).astype(int).ravel()
    shown = (rows >= 0) & (rows < ROWS) & (columns >= 0) & (columns < COLUMNS)
    order = np.argsort(nearer.ravel(), kind="stable")
    order = order[shown[order]]
    overlay = np.zeros((ROWS, COLUMNS), np.uint8)
    overlay[rows[order], columns[order]] = 2 + (253 * light.ravel()[order]).astype(
        np.uint8
    )  # the nearest points are drawn last
    column, row = thing["at"]
    top, left = max(0, row - 14), max(0, column - 14)
    bottom, right = min(ROWS - 1, row + 14), min(COLUMNS - 1, column + 14)
    overlay[[top, bottom], left : right + 1] = 1
    overlay[top : bottom + 1, [left, right]] = 1
    return overlay


@app.task(pin="ue")
def display(frame: np.ndarray, overlay: np.ndarray, where: np.ndarray, thing: dict[str, Any]) -> dict[str, Any]:
    """Returns the checksum of the screen, the number of overlaid pixels, the pose and the object."""
    light = np.where(overlay > 1, overlay, 0)[:, :, None] * np.array([1.0, 0.8, 0.2])
    screen = np.where((overlay > 1)[:, :, None], 0.3 * frame + 0.7 * light, frame)
    screen[overlay == 1] = COLOURS[thing["colour"]]
    return {
        "checksum": zlib.crc32(screen.astype(np.uint8).tobytes()),
        "drawn": int(np.count_nonzero(overlay)),
        "pose": where,
        "object": thing,
    }


@app.flow
def one_frame(seed: int) -> Any:
    """Processes one frame from the camera to the screen."""
    seen = capture(seed)
    brightness = grey(seen)
    points = corners(brightness)
    where = pose(points, match(describe(denoised(brightness), points)))
    small = shrink(seen)
    thing = recognise(small, correlate(small))
    return display(seen, render(where, thing), where, thing)


@app.example
def example() -> dict[str, Any]:
    """Returns the seed of a frame."""
    return {"seed": 7}
