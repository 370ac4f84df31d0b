"""What a teacher gives: its law at every position now, or stored ahead of time."""
