"""A believable instance: its data, and pictures of its pages."""
