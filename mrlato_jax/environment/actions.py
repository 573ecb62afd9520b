"""A decision as one number: the only place where actions are packed and unpacked.

Where tasks are placed in the priority order (13), an action is a side: 0 local, 1 offloaded. Where actions choose the
order too, it is `NUM_SIDES * position + side`, with the task's position in the priority order.
"""

from __future__ import annotations

from typing import Any

NUM_SIDES = 2  # local, offloaded


def pack(position: Any, side: Any) -> Any:
    """The action that places the task at `position` on `side`; arrays of integers of any shape."""
    return NUM_SIDES * position + side


def side_of(action: Any) -> Any:
    """The side that an action chooses; of an action in the priority order, the action itself."""
    return action % NUM_SIDES


def position_of(action: Any) -> Any:
    """The position of the task that an action places, where actions choose the order; negative for a negative one."""
    return action // NUM_SIDES
