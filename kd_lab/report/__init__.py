"""Runs in, table and plots out. Start with ``report.py``."""
