"""Edits of real photographs with a known answer: tasks, a classifier of crops, and the verdict on an edited picture."""
