"""What is read off features and trained on recorded rows, one file a head. Observations are decoded in nets/."""
