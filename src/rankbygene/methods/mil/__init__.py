"""Outcomes of slides by multiple-instance learning."""
