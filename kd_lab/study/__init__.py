"""Many runs as one study: which, in what order, and what they say together."""
