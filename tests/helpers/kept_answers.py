"""What a trainer's rollouts wrote, kept while it trains."""


def kept_answers(trainer):
    """A list to which each rollout of the trainer adds its batches' token ids."""
    written, write_batches = [], trainer.write_batches

    def keeping(batches):
        batches = write_batches(batches)
        written.append([batch["input_ids"].tolist() for batch in batches])
        return batches

    trainer.write_batches = keeping
    return written
