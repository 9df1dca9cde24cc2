"""Whole trainings, as a user would write them; each also runs in a shortened form as a test."""
