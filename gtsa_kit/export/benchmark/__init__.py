"""Speed of artifacts side by side."""
