"""The trainings, and what they share."""
