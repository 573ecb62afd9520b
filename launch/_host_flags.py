"""Several processes that train one run: the flags by which they find each other."""

from __future__ import annotations

from absl import flags

from mrlato_jax.errors import InputError
from mrlato_jax.training import hosts

_ADDRESS = ("coordinator", "num_processes", "process_id")
_TIMES = ("heartbeat_timeout_s", "join_timeout_s")
HOST_FLAGS = ("distributed", *_ADDRESS, *_TIMES)


def define_host_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Declares them."""
    flags.DEFINE_bool(
        "distributed",
        False,
        "This is one of several processes that train one run. SLURM and Open MPI tell them of each other; elsewhere "
        "give the three flags below.",
        flag_values=flag_values,
    )
    flags.DEFINE_string("coordinator", None, "host:port of process 0, reachable from all.", flag_values=flag_values)
    flags.DEFINE_integer("num_processes", None, "How many processes there are.", flag_values=flag_values)
    flags.DEFINE_integer("process_id", None, "This process's number, from 0.", flag_values=flag_values)
    flags.DEFINE_integer(
        "heartbeat_timeout_s", 100, "Seconds of silence after which a process counts as lost.", flag_values=flag_values
    )
    flags.DEFINE_integer("join_timeout_s", 100, "Seconds that the processes may take to meet.", flag_values=flag_values)


def join(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Meets the other processes where `--distributed` is given.

    Raises:
        InputError: flags of several processes without `--distributed`, or as `hosts.join`.
    """
    values = {name: flag_values[name].value for name in _ADDRESS}
    if flag_values["distributed"].value:
        hosts.join(**values, **{name: flag_values[name].value for name in _TIMES})
        return
    given = [f"--{name}" for name in (*_ADDRESS, *_TIMES) if flag_values[name].present]
    if given:
        raise InputError(f"{', '.join(given)} given without --distributed; accepted: both, or neither")
