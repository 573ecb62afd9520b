"""A robot finds its position on a map and its path to a goal.

The robot has a map of a hall, a guess of its pose, and a laser that measures the distances of the walls around it.
Poses near the guess get weights by comparing expected with measured distances (Monte-Carlo localisation). This is done
in pieces and in two rounds, the second with a smaller spread. Then the robot finds the shortest path that keeps clear
of walls and of other obstacles that the laser saw.
"""

from __future__ import annotations

import heapq
from typing import Any, NamedTuple

import numpy as np

from mrlato_jax.edge.application import Application

SIDE = 64  # cells of the map in each direction
CELL = 0.25  # metres
BEAMS = 60  # beams of the laser, all around
REACH, STEP = 8.0, 0.1  # metres: range of the laser, and step along a beam
NOISE = 0.03  # metres, noise of the laser
SPREAD = (0.6, 0.6, 0.25)  # spread of the first guess: metres, metres, radians
PIECES = 4
GUESSES = 400  # poses of a piece
NARROWER = 0.2  # factor of the spread in the second round
SIGMA = 0.4  # metres: standard deviation of a beam in the weights
GOAL = (58, 58)  # row and column
KEEP = 3  # cells: closer to a wall, each metre costs more
SEEN_WITHIN = 4.0  # metres: measurements beyond do not count as obstacles

app = Application("navigate")


class Start(NamedTuple):
    """The start of a seed: the robot's true pose and its guess; x and y in metres, and an angle in radians."""

    pose: np.ndarray
    guess: np.ndarray


def _hall() -> np.ndarray:
    """Returns the walls, bool[SIDE, SIDE]."""
    walls = np.zeros((SIDE, SIDE), bool)
    walls[[0, -1]] = walls[:, [0, -1]] = True
    random = np.random.default_rng(5)
    for _ in range(18):
        row, column = (4 + random.random(2) * (SIDE - 16)).astype(int)
        height, width = (2 + random.random(2) * 7).astype(int)
        walls[row : row + height, column : column + width] = True
    walls[GOAL[0] - 4 : -1, GOAL[1] - 4 : -1] = False
    return walls


_WALLS = _hall()


def start(seed: int) -> Start:
    """Draws the robot's pose in a free cell of the hall, and its guess."""
    random = np.random.default_rng([seed, 0])
    rows, columns = np.nonzero(clearance(_WALLS) >= KEEP)
    place = int(random.random() * len(rows))
    pose = np.array([CELL * (columns[place] + 0.5), CELL * (rows[place] + 0.5), 2 * np.pi * random.random()])
    return Start(pose, pose + np.array(SPREAD) * np.clip(random.standard_normal(3), -1.5, 1.5))


def ranges(poses: np.ndarray) -> np.ndarray:
    """Returns the distances to the next wall, float32[n, BEAMS] metres, at most REACH, from poses float[n, 3]."""
    turns = 2 * np.pi * np.arange(BEAMS) / BEAMS + poses[:, 2:3]
    columns, rows = poses[:, :1] / CELL, poses[:, 1:2] / CELL
    across, down = (STEP / CELL * np.cos(turns)), (STEP / CELL * np.sin(turns))
    distances = np.full(turns.shape, REACH, np.float32)
    open_still = np.ones(turns.shape, bool)
    for step in range(1, int(REACH / STEP)):
        row = np.clip((rows + step * down).astype(int), 0, SIDE - 1)
        column = np.clip((columns + step * across).astype(int), 0, SIDE - 1)
        met = _WALLS[row, column] & open_still
        distances[met] = step * STEP
        open_still &= ~met
    return distances


def clearance(blocked: np.ndarray) -> np.ndarray:
    """Returns the number of cells to the next blocked one, int[SIDE, SIDE], at most KEEP."""
    clear = np.zeros(blocked.shape, int)
    near = blocked.copy()
    for _ in range(KEEP):
        clear += ~near
        wide = np.pad(near, 1)
        near = np.any([wide[r : r + SIDE, c : c + SIDE] for r in range(3) for c in range(3)], axis=0)
    return clear


@app.task(pin="ue")
def believe(seed: int) -> np.ndarray:
    """Returns the robot's guess of its pose, float64[3]."""
    return start(seed).guess


@app.task(pin="ue")
def scan(seed: int) -> np.ndarray:
    """Returns the measured distances, float32[BEAMS] metres; a person blocks three beams."""
    random = np.random.default_rng([seed, 1])
    seen = ranges(start(seed).pose[None])[0] + NOISE * random.standard_normal(BEAMS).astype(np.float32)
    first = int(BEAMS * random.random())
    person = np.arange(first, first + 3) % BEAMS
    seen[person] = np.minimum(seen[person], np.float32(1.5))
    return np.clip(seen, 0, REACH)


@app.task
def weigh(seen: np.ndarray, guess: np.ndarray, piece: int, narrower: float) -> np.ndarray:
    """Weighs the poses of a piece around a guess.

    Returns:
        float64[5]: the largest log weight, and with weights relative to it, the sum of the weights and the weighted
        sums of the offsets in x, y and angle from the guess.
    """
    random = np.random.default_rng([2, piece])
    off = narrower * np.array(SPREAD) * random.standard_normal((GUESSES, 3))
    unlike = np.minimum(np.abs(ranges(guess + off) - seen), SIGMA) / SIGMA
    logs = -0.5 * (unlike.astype(float) ** 2).sum(axis=1) / max(narrower, 0.3)
    weights = np.exp(logs - logs.max())
    return np.array([logs.max(), weights.sum(), *(weights[:, None] * off).sum(axis=0)])


@app.task
def locate(guess: np.ndarray, weighed: list[np.ndarray]) -> np.ndarray:
    """Returns the weighted mean of the poses, float64[3]."""
    parts = np.array(weighed)
    parts[:, 1:] *= np.exp(parts[:, 0] - parts[:, 0].max())[:, None]
    total = parts[:, 1:].sum(axis=0)
    return guess + total[1:] / total[0]


@app.task
def obstacles(pose: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Returns blocked cells, bool[SIDE, SIDE]: walls, and cells with obstacles that are not on the map."""
    expected = ranges(pose[None])[0]
    turns = 2 * np.pi * np.arange(BEAMS) / BEAMS + pose[2]
    new = (seen < expected - 5 * STEP) & (seen < SEEN_WITHIN)
    columns = ((pose[0] + seen * np.cos(turns)) / CELL).astype(int)[new]
    rows = ((pose[1] + seen * np.sin(turns)) / CELL).astype(int)[new]
    inside = (rows >= 0) & (rows < SIDE) & (columns >= 0) & (columns < SIDE)
    blocked = _WALLS.copy()
    blocked[rows[inside], columns[inside]] = True
    return blocked


@app.task
def way(pose: np.ndarray, blocked: np.ndarray) -> np.ndarray:
    """Finds the path to the goal (Dijkstra), int32[k, 2] rows and columns; empty if there is no path."""
    clear = clearance(blocked)
    price = np.where(clear == 0, np.inf, 1.0 + 2.0 * (KEEP - clear)).tolist()
    here = (int(np.clip(pose[1] / CELL, 0, SIDE - 1)), int(np.clip(pose[0] / CELL, 0, SIDE - 1)))
    best, came = {here: 0.0}, {here: here}
    waiting = [(0.0, here)]
    while waiting:
        cost, place = heapq.heappop(waiting)
        if place == GOAL:
            break
        if cost > best[place]:
            continue
        for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            row, column = place[0] + down, place[1] + right
            if not (0 <= row < SIDE and 0 <= column < SIDE):
                continue
            further = cost + price[row][column] * (1.4142 if down and right else 1.0)
            if further < best.get((row, column), np.inf):
                best[row, column], came[row, column] = further, place
                heapq.heappush(waiting, (further, (row, column)))
    if GOAL not in came:
        return np.zeros((0, 2), np.int32)
    path = [GOAL]
    while path[-1] != here:
        path.append(came[path[-1]])
    return np.array(path[::-1], np.int32)


@app.task(pin="ue")
def drive(pose: np.ndarray, path: np.ndarray) -> dict[str, Any]:
    """Returns the robot's pose, the length of its path, its first turn in radians, and the path."""
    steps = np.diff(path, axis=0)
    turn = 0.0
    if len(path) > 1:
        ahead = path[min(4, len(path) - 1)] - path[0]
        turn = float((np.arctan2(ahead[0], ahead[1]) - pose[2] + np.pi) % (2 * np.pi) - np.pi)
    return {"pose": pose, "metres": float(CELL * np.hypot(*steps.T).sum()), "turn": turn, "path": path}


@app.flow
def go(seed: int) -> Any:
    """Computes the drive command from the laser's measurement."""
    where, seen = believe(seed), scan(seed)
    for narrower in (1.0, NARROWER):
        where = locate(where, [weigh(seen, where, piece, narrower) for piece in range(PIECES)])
    return drive(where, way(where, obstacles(where, seen)))


@app.example
def example() -> dict[str, Any]:
    """Returns the seed of a place."""
    return {"seed": 11}
