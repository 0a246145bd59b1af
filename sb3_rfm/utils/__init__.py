"""What is no reinforcement learning: files, locks, output, and what has to be installed."""
