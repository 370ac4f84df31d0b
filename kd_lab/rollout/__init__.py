"""Who writes the answers: a model through transformers or vLLM, one call for both."""
