"""The objectives: one trainer for each way of writing the prefixes, on TRL's SFTTrainer."""
