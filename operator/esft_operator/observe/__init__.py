"""What is known of a run: its resource, its children, its log."""
