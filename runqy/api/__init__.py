"""What all API views share: authentication, permissions, throttling, parsers, renderers, pagination, schema."""
