"""What the first edition held, of each kind: cases tried, cases held.

They were counted on 2026-11-25, at commit 2b022d2, by another harness. "kills" are those of one
process and of ``demo``; "names" are those of report, card and CSV. Of 30 full disks 28 left what
was whole, and none was named; six read-only folders were found after models had loaded.
"""

FIRST_EDITION = {
    "damages": (400, 275),
    "two writers": (26, 19),
    "kills": (81, 81),
    "splits": (56, 46),
    "names": (8, 2),
    "command line": (643, 514),
    "full disks": (30, 0),
    "read-only folders": (20, 14),
    "Ctrl-C": (8, 1),
}
