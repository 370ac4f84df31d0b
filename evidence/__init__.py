"""The audit: one-off measurements of finished runs, and the pages that are written from them."""
