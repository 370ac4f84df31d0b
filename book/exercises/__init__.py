"""Exercises of the notebooks: checks that say right, or how an answer is wrong; and solutions."""
