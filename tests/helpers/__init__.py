"""What several tests build on: small models, written runs, rows, pages."""
