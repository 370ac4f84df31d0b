"""Conversations in; prompts, completions and masks out; and a small language with known truth."""
