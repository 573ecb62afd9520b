"""Studies: small trainings that each change one aspect of a base, to separate causes.

All are validated on fresh DAGs of the training families with their proven optima. The test sets are not used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrlato_jax.config import ExecutionConfig, LearningConfig, TrainConfig, completed
from mrlato_jax.dag.dataset import DagDataset
from mrlato_jax.errors import InputError, check_choice, shorten
from mrlato_jax.methods import learned_method, planned_methods
from mrlato_jax.results.record import AS_WRITTEN, GrowingRecord
from mrlato_jax.results.reproduction import params_hash
from mrlato_jax.training.run_folder import RunFolder, read_metrics, seed_path, session
from mrlato_jax.training.stages import WARM_START, train_stages
from mrlato_jax.training.stopping import GracefulStop
from mrlato_jax.training.validation import Validation, ValidationSet

Changes = Mapping[str, Any]
"""New values of settings by dotted names: `iterations`, `network.heads`, `learning.inner_lr`, ..."""

BASE = "base"
UNLEARNED = ("HEFT-based", "look-ahead")  # planners on the same DAGs, for comparison
LATELY = 0.1  # share of the last iterations over which a row averages each metric


@dataclasses.dataclass(frozen=True)
class Study:
    """A base and its variants.

    Attributes:
        question: the question that the study answers; title of the figure.
        base: the settings of the base, which each variant changes.
        groups: variants by name, grouped by a suspected cause or a part of the method.
    """

    question: str
    base: TrainConfig
    groups: Mapping[str, Mapping[str, Changes]]

    @property
    def variants(self) -> dict[str, Changes]:
        """Returns all variants by name, the base first."""
        return {BASE: {}, **{name: changes for group in self.groups.values() for name, changes in group.items()}}

    def config(self, variant: str, seed: int = 0, smaller: Changes | None = None) -> TrainConfig:
        """Returns the settings of a variant.

        Args:
            variant: name of the variant.
            seed: seed of the run.
            smaller: changes of the base before the variant's own, for example to make a run take seconds.
        """
        check_choice("variant", variant, self.variants)
        config = changed(self.base, {**(smaller or {}), "seed": seed})
        return changed(config, self.variants[variant])


def changed(config: TrainConfig, changes: Changes) -> TrainConfig:
    """Returns a copy with other values; raises InputError for an unknown setting."""
    known = {name: getattr(config, name) for name in ("network", "learning")}
    plain_names = {field.name for field in dataclasses.fields(config)} - known.keys()
    nested: dict[str, dict[str, Any]] = {}
    plain: dict[str, Any] = {}
    for name, value in changes.items():
        record, _, rest = name.partition(".")
        there = name in plain_names or hasattr(known.get(record), rest or " ")
        if not there:
            raise InputError(f"change of {name!r}; accepted: settings of a run, like learning.inner_lr")
        if rest:
            nested.setdefault(record, {})[rest] = value
        else:
            plain[record] = value
    for record, values in nested.items():
        plain[record] = dataclasses.replace(getattr(config, record), **values)
    return dataclasses.replace(config, **plain)


_SMALL = {
    "learning.meta_batch": 5,
    "learning.graphs_per_task": 8,
    "learning.rollouts": 5,
    "learning.outer_lr": 1.5e-3,  # m times the paper's, the full mean displacement of (28); less moves too little
}
_IMITATING = LearningConfig(
    learn_from="optimum",
    inner_lr=1e-3,
    inner_lr_decay=150,
    inner_steps=1,
    meta_batch=1,
    graphs_per_task=64,
    value_coef=0.0,
    meta_update="joint",
)
_OF_THE_NETWORK: dict[str, dict[str, Changes]] = {
    "what the decoder sees": {
        "its task": {"network.decoder_input": "task"},
        "and the simulator": {"network.decoder_input": "task_sim"},
        "and what comes of it": {"network.decoder_input": "lookahead"},
    },
    "capacity": {"64 units": {"network.units": 64}, "256 units": {"network.units": 256}},
}
_PLUS = learned_method("mrlato_plus")

STUDIES = {
    "stall": Study(
        "What holds the paper's method back?",
        changed(learned_method("mrlato").config(experiment="exp1", iterations=200), _SMALL),
        {
            "credit assignment": {
                "leave-one-out baseline": {"learning.baseline": "leave_one_out"},
                "no bootstrapping (lambda 1)": {"learning.gae_lambda": 1.0},
                "deviations": {"learning.learn_from": "deviations", "learning.value_coef": 0.0},
            },
            "exploration": {
                "entropy bonus 0.01": {"learning.entropy_coef": 0.01},
                "entropy bonus 0.05": {"learning.entropy_coef": 0.05},
            },
            "encoder": {
                "bidirectional": {"network.encoder": "bidirectional"},
                "told what comes after": {"network.task_features": "outlook"},
                "pooled neighbours": {"network.neighbours": "pooled"},
            },
            **_OF_THE_NETWORK,
            "outer step": {
                "the paper's beta": {"learning.outer_lr": 5e-4},
                "Adam": {"learning.meta_update": "reptile_adam", "learning.outer_lr": 5e-4},
            },
            "scale of rewards": {
                "rewards in seconds": {"learning.reward_scale": "none"},
                "advantages as they are": {"learning.normalise_advantages": False},
            },
            "attention heads": {
                "none": {"network.heads": 0},
                "1 head": {"network.heads": 1},
                "2 heads": {"network.heads": 2},
                "4 heads": {"network.heads": 4},
            },
            "meta-update": {
                "first-order MAML": {"learning.meta_update": "fomaml", "learning.outer_lr": 5e-4},
                "first-order MAML at 1.5e-3": {"learning.meta_update": "fomaml", "learning.outer_lr": 1.5e-3},
                "first-order MAML and leave-one-out": {
                    "learning.meta_update": "fomaml",
                    "learning.outer_lr": 5e-4,
                    "learning.baseline": "leave_one_out",
                },
                "first-order MAML without values": {
                    "learning.meta_update": "fomaml",
                    "learning.outer_lr": 1.5e-3,
                    "learning.baseline": "leave_one_out",
                    "learning.value_coef": 0.0,
                },
                "MAML": {"learning.meta_update": "maml", "learning.outer_lr": 5e-4},
                "joint (no inner loop)": {"learning.meta_update": "joint"},
            },
            "inner steps": {  # also with the full mean displacement as the outer step
                "1 step": {"learning.inner_steps": 1, "learning.outer_lr": 5e-4},
                "5 steps": {"learning.inner_steps": 5, "learning.outer_lr": 2.5e-3},
            },
        },
    ),
    "imitation": Study(
        "What can the network learn from proven optima?",
        dataclasses.replace(learned_method("mrlato").config(experiment="exp1", iterations=150), learning=_IMITATING),
        {
            "encoder": {
                "bidirectional": {"network.encoder": "bidirectional"},
                "told what comes after": {"network.task_features": "outlook"},
            },
            **_OF_THE_NETWORK,
        },
    ),
    "parts": Study(
        "What is each part of mrlato_plus worth?",
        dataclasses.replace(
            changed(
                _PLUS.config(experiment="exp1", iterations=40),
                {"learning.meta_batch": 5, "learning.graphs_per_task": 8, "learning.outer_lr_decay": 40},
            ),
            warm_start=_IMITATING,
            warm_start_iterations=150,
        ),
        {
            "without its decoder's": {
                "what comes of it": {"network.decoder_input": "task_sim"},
                "and the simulator": {"network.decoder_input": "task"},
                "and the task": {"network.decoder_input": "paper"},
                "rules but HEFT's": {"network.lookahead_rules": 1},
            },
            "without its encoder's": {
                "backward reading": {"network.encoder": "forward"},
                "outlook": {"network.task_features": "paper"},
                "pooled neighbours": {"network.neighbours": "listed"},
            },
            "without its way of learning": {
                "warm start": {"warm_start_iterations": 0},
                "deviations": {"learning.learn_from": "samples", "learning.value_coef": 0.5},
                "Adam outside": {"learning.meta_update": "reptile"},
            },
        },
    ),
}


class StudyRecord(GrowingRecord):
    """The results of a study's trainings: `config`, `curve` and `lately` by variant and seed.

    A curve has iterations (including those of a warm start), gaps to the optimum in percent, and seconds of training.
    The planners in `UNLEARNED` have one entry `all`, with its `gap_percent`, in place of seeds.
    """

    def __init__(
        self, path: Path, name: str, study: Study, dataset: DagDataset, smaller: Changes, validated_by: int
    ) -> None:
        """Opens the record, or starts a new one.

        Args:
            path: the file, in an existing folder.
            name: name of the study.
            study: the study.
            dataset: data set of its experiment.
            smaller: as in `Study.config`.
            validated_by: number of validation DAGs of each training family.

        Raises:
            InputError: the record is of another study, other settings, data or code.
        """
        identity = {
            "study": name,
            "data_hash": dataset.content_hash,
            "version": session()["versions"]["mrlato_jax"],
            "smaller": dict(smaller),
            "validated_by": validated_by,
        }
        super().__init__(path, identity)
        for variant, seeds in self.rows.items():
            for seed, row in seeds.items():
                try:
                    _check_row(variant, row)
                    known = variant in UNLEARNED or (
                        variant in study.variants
                        and completed(row["config"]) == study.config(variant, int(seed), smaller).to_json()
                    )
                except (KeyError, ValueError, TypeError, AttributeError) as error:
                    raise InputError(
                        f"record {path}, {variant}, {seed}: {shorten(error, 300)}; accepted: {AS_WRITTEN}"
                    ) from None
                if not known:
                    raise InputError(
                        f"record {path} has {variant}, seed {seed}, of other settings; accepted: this study's, or "
                        "another file"
                    )

    @property
    def has_unlearned(self) -> bool:
        """Returns whether all rows of `UNLEARNED` exist."""
        return all(name in self.rows for name in UNLEARNED)

    def add_unlearned(self, chosen: ValidationSet) -> None:
        """Adds the missing rows of `UNLEARNED`: the `gap_percent` of each planner on the validation set."""
        planners = planned_methods()
        for name in UNLEARNED:
            if name not in self.rows:
                plans = [plan for each in chosen.test_sets for plan in planners[name].plan(each.graphs, each.system)]
                gap = float(np.mean([plan.makespan for plan in plans])) / chosen.optimum_s - 1
                self.add(name, "all", {"gap_percent": round(100 * gap, 3)})

    def missing(self, variants: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int]]:
        """Lists the variants and seeds still to train."""
        return [
            (variant, seed) for variant in variants for seed in seeds if str(seed) not in self.rows.get(variant, {})
        ]


def _check_row(variant: str, row: Mapping[str, Any]) -> None:
    """Raises an exception (of any kind) for a malformed row."""
    if variant in UNLEARNED:
        numbers = [row["gap_percent"]]
    else:
        points = np.stack([row["curve"][name] for name in ("iteration", "gap_percent", "seconds")])
        numbers = [*points.ravel(), *row["lately"].values()]
    if not np.isfinite(numbers).all():
        raise ValueError("values that are not finite")


def run_variant(
    config: TrainConfig, root: Path, dataset: DagDataset, validation: Validation, stop: GracefulStop, points: int = 10
) -> dict[str, Any] | None:
    """Trains one variant in a run folder below `root`, or continues it, and returns its row.

    Args:
        config: settings of the variant.
        root: parent of the variant's run folders.
        dataset: data set of the experiment.
        validation: the validation, with the variant's network.
        stop: after a request, training saves and ends.
        points: number of points of the curve for each stage.

    Returns:
        A row of the record; None after a stop.
    """
    path = seed_path(root, config.seed)
    every = max(1, max(config.iterations, config.warm_start_iterations) // points)
    with RunFolder.begin(path, config, dataset.content_hash) as run:
        states = train_stages(
            [run], [config], dataset, stop, every, ExecutionConfig(parallel="single"), None, validation
        )
        if states is None:
            return None
        lines = read_metrics(run.metrics, None)
        curve = read_metrics(run.validation, ("gap", "seconds"))
        before = config.warm_start_iterations
        first = read_metrics(run.path / WARM_START / run.validation.name, ("gap", "seconds")) if before else []
    lately = lines[-max(1, round(LATELY * len(lines))) :]
    points_of = [*first, *({**point, "iteration": point["iteration"] + before} for point in curve)]
    return {
        "config": config.to_json(),
        "params_sha256": params_hash(states[0].params),
        "sessions": run.record["sessions"],
        "curve": {
            "iteration": [point["iteration"] for point in points_of],
            "gap_percent": [round(100 * point["gap"], 3) for point in points_of],
            "seconds": [round(point["seconds"], 1) for point in points_of],
        },
        "lately": {
            name: float(f"{np.mean([line[name] for line in lately]):.4g}") for name in lines[0] if name != "iteration"
        },
    }


def study_table(study: Study, rows: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Makes header and cells of a table: each variant's gap halfway and at the end, and its final entropy.

    Planners come first, with their gap in the column for the end.
    """
    header = ["group", "variant", "seeds", "gap half way, %", "gap at the end, %", "entropy, nats", "values explain"]
    cells = [
        ["nothing learned", name, "", "", f"{rows[name]['all']['gap_percent']:.1f}", "", ""]
        for name in UNLEARNED
        if name in rows
    ]
    known = {BASE: {BASE: study.variants[BASE]}, **study.groups}
    for group, variants in known.items():
        for name in variants:
            seeds = list(rows.get(name, {}).values())
            if not seeds:
                continue
            gaps = np.array([row["curve"]["gap_percent"] for row in seeds])
            half, end = gaps[:, gaps.shape[1] // 2], gaps[:, -1]
            entropy, explained = (
                np.mean([row["lately"][metric] for row in seeds]) for metric in ("entropy", "value_explained")
            )
            judged = seeds[0]["config"]["learning"]["value_coef"] > 0
            worth = f"{100 * explained:.0f} %" if explained > -1 else "below -100 %"
            shown = [_spread(half), _spread(end), f"{entropy:.2f}", worth if judged else ""]
            cells.append([group, name, str(len(seeds)), *shown])
    return header, cells


def _spread(values: np.ndarray) -> str:
    """Formats the value of each seed."""
    return " / ".join(f"{value:.1f}" for value in values)
