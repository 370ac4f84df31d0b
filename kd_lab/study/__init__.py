"""Many runs as one study: its tasks, their order, and its results."""
