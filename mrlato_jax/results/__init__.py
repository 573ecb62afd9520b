"""Results of runs: evaluation, references, statistics, tables, figures, reproduction and studies."""
