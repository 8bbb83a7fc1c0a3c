"""What the project's speed is measured with, its peers in the same run."""
