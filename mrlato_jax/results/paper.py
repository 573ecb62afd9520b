"""The paper's printed results, for comparison with our measurements."""

PAPER_MS = {
    # Table III, by setting and method: latency after 1, 30 and 100 updates, milliseconds. Topologies 1 to 3 come first.
    "fat0.7_density0.4": {"drl": (738, 720, 712), "mrlco": (701, 670, 655), "mrlato": (682, 648, 638)},
    "fat0.7_density0.7": {"drl": (755, 734, 719), "mrlco": (727, 708, 700), "mrlato": (740, 699, 686)},
    "fat0.8_density0.6": {"drl": (660, 643, 630), "mrlco": (604, 580, 567), "mrlato": (618, 572, 558)},
    "n20": {"drl": (718, 691, 674), "mrlco": (648, 615, 604), "mrlato": (589, 536, 520)},
    "n30": {"drl": (977, 938, 921), "mrlco": (950, 905, 886), "mrlato": (896, 826, 790)},
    "n40": {"drl": (1195, 1153, 1130), "mrlco": (1190, 1136, 1099), "mrlato": (1169, 1102, 1079)},
    "5.5 Mbit/s": {"drl": (940, 919, 906), "mrlco": (929, 880, 856), "mrlato": (903, 859, 832)},
    "8.5 Mbit/s": {"drl": (710, 689, 680), "mrlco": (709, 683, 667), "mrlato": (692, 662, 650)},
    "11.5 Mbit/s": {"drl": (637, 614, 603), "mrlco": (648, 583, 559), "mrlato": (621, 560, 544)},
}
