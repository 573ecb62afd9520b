"""Flags by which several processes of one run find each other."""

from __future__ import annotations

from absl import flags

from mrlato_jax.errors import InputError
from mrlato_jax.training import hosts

_ADDRESS = ("coordinator", "num_processes", "process_id")
_TIMES = ("heartbeat_timeout_s", "join_timeout_s")
HOST_FLAGS = ("distributed", *_ADDRESS, *_TIMES)


def define_host_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Declares the flags."""
    flags.DEFINE_bool(
        "distributed",
        False,
        "Run as one of several processes that train one run. SLURM and Open MPI provide the addresses; elsewhere give "
        "the three flags below.",
        flag_values=flag_values,
    )
    flags.DEFINE_string("coordinator", None, "host:port of process 0, reachable from all.", flag_values=flag_values)
    flags.DEFINE_integer("num_processes", None, "Number of processes.", flag_values=flag_values)
    flags.DEFINE_integer("process_id", None, "This process's number, from 0.", flag_values=flag_values)
    flags.DEFINE_integer(
        "heartbeat_timeout_s", 100, "Seconds of silence after which a process counts as lost.", flag_values=flag_values
    )
    flags.DEFINE_integer(
        "join_timeout_s", 100, "Seconds within which all processes must connect.", flag_values=flag_values
    )


def join(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Connects to the other processes if `--distributed` is given.

    Raises:
        InputError: flags of several processes are given without `--distributed`, or as in `hosts.join`.
    """
    values = {name: flag_values[name].value for name in _ADDRESS}
    if flag_values["distributed"].value:
        hosts.join(**values, **{name: flag_values[name].value for name in _TIMES})
        return
    given = [f"--{name}" for name in (*_ADDRESS, *_TIMES) if flag_values[name].present]
    if given:
        raise InputError(f"{', '.join(given)} given without --distributed; accepted: both, or neither")
