"""The quality of a student: its answers, its fidelity to the teacher, its modes; with intervals."""
