"""The output of a training: the run folder and its model card."""
