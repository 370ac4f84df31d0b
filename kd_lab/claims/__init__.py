"""The audit of the post, claim by claim: what ``python -m kd_lab.claims`` writes to CLAIMS.md."""
