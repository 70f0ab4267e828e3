"""A run on one machine: embedded Redis, worker processes, the folder that holds everything, the view."""
