"""The audit of the post, claim by claim: what ``python -m evidence claims`` writes to CLAIMS.md."""
