"""A decision as one number: the only place where actions are packed and unpacked.

Where tasks are placed in the priority order (13), an action is a site: 0 the UE, 1 to K the servers. Where actions
choose the order too, an action is `(K + 1) * position + site`, with the task's position in the priority order.
"""

from __future__ import annotations

from typing import Any

NUM_SIDES = 2  # sites of the paper's network, with one server: local, offloaded


def pack(position: Any, site: Any, num_sites: int = NUM_SIDES) -> Any:
    """Returns the action that places the task at `position` at `site`; arrays of integers of any shape."""
    return num_sites * position + site


def site_of(action: Any, num_sites: int = NUM_SIDES) -> Any:
    """Returns the site that an action chooses; in the priority order, the action itself."""
    return action % num_sites


def position_of(action: Any, num_sites: int = NUM_SIDES) -> Any:
    """Returns the position of the task that an action places, where actions choose the order.

    The position of a negative action is negative.
    """
    return action // num_sites
