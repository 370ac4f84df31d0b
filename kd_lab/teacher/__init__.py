"""What a teacher gives: its distribution at every position, live or stored ahead of time."""
