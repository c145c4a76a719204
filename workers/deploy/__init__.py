"""Deploy a queue's code: git checkout, virtual environment, records. Does not import Django."""
