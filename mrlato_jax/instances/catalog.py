"""What the benchmark has: applications with their sources, systems, and which applications meet which systems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.instances.applications import cluster_job, mobile_applications, streams
from mrlato_jax.instances.networks import NETWORKS

VERSION = "1"
MACHINE_HZ = 2.4e9  # clock of the machines that ran the workflows, as in `launch/real_graphs.py`

SOURCES: Mapping[str, str] = {
    "mobile": (
        "SLEIPNIR, github.com/vindem/sleipnir at 26bbc2e, src/main/java/at/ac/tuwien/ec/model/software/mobileapps and "
        "OffloadingSetup: millions of instructions, bytes in and out, edges, parts that cannot be offloaded. A million "
        "instructions is a million cycles. Sizes that it draws are their means; the face image has 10e6 bytes, as in "
        "OffloadingSetup (other setup classes have 10e3 and 10e9). voice_synth has 1500 MI, its 15e3 times the task "
        "multiplier 0.1 that all other parts have got. The direct edge post_request -> file_upload is commented out at "
        "every commit there and left out here; process_response stands between the two. phone runs all five at once."
    ),
    "network": (
        "Layer shapes of the published architectures (mrlato_jax/instances/networks.py names each paper). Derived: "
        "half a cycle for a multiply-accumulate, 4 bytes a value, one byte for each value of an image."
    ),
    "stream": (
        "RIoTBench, github.com/dream-lab/riot-bench at c86414f: stages and edges of ETLTopology, "
        "StatsWithVisualizationTopology, IoTPredictionTopologyTAXI and IoTTrainTopologyTAXI, without the sinks; the "
        "table insert of ETL is from the paper (doi 10.1002/cpe.4257), since the code has it commented out. Bytes of a "
        "message are the means of its sample files. Derived by our rule, since RIoTBench publishes none: cycles for a "
        "byte by its categories, shares of bytes that a stage passes on, windows of 1000 messages. Sources are pinned "
        "to the UE, stores to the server. gateway runs all four at once."
    ),
    "workflow": (
        "WfInstances, github.com/wfcommons/WfInstances at f085867 (doi 10.5281/zenodo.12510982): tasks, edges, run "
        "times and file sizes as recorded. Derived: cycles are run time times 2.4 GHz; names are numbers."
    ),
    "job": (
        "Shapes of the jobs of Alibaba's cluster trace of 2018 as Tian et al. publish them (doi "
        "10.1145/3357223.3362710): 81.68 % of tasks in trees of bounded depth, 36.03 % of jobs scatter. Derived by our "
        "seeded rule, since the trace has no bytes: levels, log-normal cycles and bytes "
        "(mrlato_jax/instances/applications.py, cluster_job)."
    ),
}

WORKFLOWS: Mapping[str, str] = {  # files of WfInstances
    "bacass": "nextflow/bacass-dirt02-001.json",
    "scrnaseq": "nextflow/scrnaseq-dirt02-001.json",
    "srasearch": "pegasus/srasearch/srasearch-chameleon-10a-003.json",
    "sarek": "nextflow/sarek-dirt02-001.json",
    "methylseq": "nextflow/methylseq-dirt02-001.json",
    "hic": "nextflow/hic-dirt02-001.json",
    "epigenomics": "pegasus/epigenomics/epigenomics-chameleon-hep-1seq-100k-001.json",
    "1000genome": "pegasus/1000genome/1000genome-chameleon-2ch-100k-001.json",
    "montage": "pegasus/montage/montage-chameleon-2mass-005d-001.json",
    "cycles": "pegasus/cycles/cycles-chameleon-1l-1c-9p-001.json",
    "bwa": "makeflow/bwa/bwa-chameleon-small-001.json",
}
JOBS = (12, 16, 20, 24, 30, 40, 60, 100)  # numbers of tasks; the seed is 0

UE_HZ, NEAR_HZ, FAR_HZ = 1e9, 10e9, 40e9  # paper III-C: 1 GHz, 4 cores of 2.5 GHz; far: 16 such cores
LINKS: Mapping[str, tuple[float, float]] = {  # uplink and downlink to the near edge, bit/s
    "3g": (7.2e6, 7.2e6),  # SLEIPNIR, DefaultNetworkPlanner: first hop over 3G
    "wifi": (32e6, 32e6),  # the same: first hop over good WiFi
    "5g": (50e6, 100e6),  # ITU-R M.2410: user experienced data rates of IMT-2020, dense urban
}
FAR_RATE = 0.5  # of the near rate: SLEIPNIR has 3.6 and 16 Mbit/s to the cloud
BUSY = 0.25  # of the near clock: one of four cores is left


def _systems() -> dict[str, dict[str, Any]]:
    systems: dict[str, dict[str, Any]] = {}
    for link, rates in LINKS.items():
        far = tuple(FAR_RATE * rate for rate in rates)
        places = {
            "near": (NEAR_HZ, *rates),
            "far": (FAR_HZ, *far),
            "busy": (BUSY * NEAR_HZ, *rates),
            "both": ([NEAR_HZ, FAR_HZ], *([near, away] for near, away in zip(rates, far, strict=True))),
        }
        for place, (clock, up, down) in places.items():
            fields = {"ue_hz": UE_HZ, "vm_hz": clock, "uplink_bps": up, "downlink_bps": down, "channel": "resident"}
            systems[f"{link}-{place}"] = fields
        systems[f"{link}-return"] = {**systems[f"{link}-near"], "channel": "paper"}
    return systems


SYSTEMS = _systems()
ENERGY_WEIGHT = 1.0  # seconds per joule, where a name ends in "-energy"

MEETINGS: Mapping[str, str] = {  # systems of each application
    "antivirus": "3g-near",
    "facerecognizer": "wifi-near 5g-far",
    "facebook": "3g-near wifi-both 3g-near-energy",
    "navigator": "5g-near wifi-near 5g-near-energy",
    "chess": "3g-near wifi-far",
    "phone": "wifi-near 5g-near 5g-far 5g-both wifi-near-energy wifi-return",
    "alexnet": "3g-near",
    "vgg16": "wifi-far",
    "mobilenet": "3g-far 3g-near-energy",
    "resnet18": "3g-near wifi-far",
    "squeezenet": "3g-near 3g-far wifi-both",
    "googlenet": "3g-near",
    "bert_mini": "wifi-near",
    "etl": "3g-near wifi-far",
    "stats": "3g-near wifi-near-energy",
    "pred": "3g-near wifi-far",
    "gateway": "3g-near wifi-near wifi-far 5g-both 5g-near-energy wifi-return",
    "bacass": "3g-far",
    "scrnaseq": "wifi-near",
    "srasearch": "5g-far",
    "sarek": "3g-near",
    "methylseq": "3g-far",
    "hic": "3g-far",
    "epigenomics": "wifi-far 5g-both",
    "1000genome": "wifi-near",
    "montage": "3g-far",
    "cycles": "3g-far",
    "bwa": "3g-near",
    **{f"job{size}": "3g-near wifi-near wifi-busy 5g-near" for size in JOBS if size <= 30},
    "job40": "wifi-near",
    "job60": "5g-near",
    "job100": "wifi-near",
}


def group_of(application: str) -> str:
    """Returns the key of `SOURCES` of an application."""
    if application in NETWORKS:
        return "network"
    if application in WORKFLOWS:
        return "workflow"
    if application.startswith("job"):
        return "job"
    return "stream" if application in ("etl", "stats", "pred", "train", "gateway") else "mobile"


def derived_applications() -> dict[str, TaskGraph]:
    """Returns every application but the workflows, computed from the facts and rules."""
    graphs = {
        **mobile_applications(),
        **{name: network().graph() for name, network in NETWORKS.items()},
        **streams(),
        **{f"job{size}": cluster_job(size, 0) for size in JOBS},
    }
    return {name: graph for name, graph in graphs.items() if name in MEETINGS}
