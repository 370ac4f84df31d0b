"""Who writes the answers: a model through transformers, vLLM or a server, one call for all."""
