"""Small simulations behind every figure of the post; each figure has one script here."""
