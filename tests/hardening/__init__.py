"""Kills, damages, mistyped commands and splits by the hundred: ``make hardening`` counts them."""
