"""For lecturers: a problem set whose answers pytest checks, beside the plan in site/teach.md."""
