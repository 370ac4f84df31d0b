"""Kills, damages, full disks, mistyped commands by the hundred: ``make hardening`` counts them."""
