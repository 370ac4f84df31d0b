"""What a student became: its answers, its faith to the teacher, its modes; with intervals."""
