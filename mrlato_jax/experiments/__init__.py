"""The paper's experiments: settings, runs on disk, training, evaluation, reports. Disk I/O begins here."""
