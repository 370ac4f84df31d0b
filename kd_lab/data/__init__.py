"""Conversations in, prompts, completions and masks out; and a language small enough to know."""
