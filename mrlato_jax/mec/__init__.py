"""The edge system: task times, scheduling order and the latency recurrence."""
