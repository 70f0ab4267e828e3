"""What to do about a run: pure functions of what is known."""
