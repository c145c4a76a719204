"""A demo instance with realistic data, and screenshots of its pages."""
