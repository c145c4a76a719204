"""What the documentation site has besides docs/: pages and tables that are generated when it is built."""
