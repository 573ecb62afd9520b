"""What the paper prints, to stand beside what is measured here."""

PAPER_MS = {
    # Table III: latency after 1, 30 and 100 updates, milliseconds, of each experiment's three settings in order.
    "exp1": {
        "drl": ((738, 720, 712), (755, 734, 719), (660, 643, 630)),
        "mrlco": ((701, 670, 655), (727, 708, 700), (604, 580, 567)),
        "mrlato": ((682, 648, 638), (740, 699, 686), (618, 572, 558)),
    },
    "exp2": {
        "drl": ((718, 691, 674), (977, 938, 921), (1195, 1153, 1130)),
        "mrlco": ((648, 615, 604), (950, 905, 886), (1190, 1136, 1099)),
        "mrlato": ((589, 536, 520), (896, 826, 790), (1169, 1102, 1079)),
    },
    "exp3": {
        "drl": ((940, 919, 906), (710, 689, 680), (637, 614, 603)),
        "mrlco": ((929, 880, 856), (709, 683, 667), (648, 583, 559)),
        "mrlato": ((903, 859, 832), (692, 662, 650), (621, 560, 544)),
    },
}
PAPER_EFFICIENCY = {"mrlato": 0.73, "mrlco": 0.68, "drl": 0.64}  # section VI: mean over the nine settings
