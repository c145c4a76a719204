"""What the views of every app stand on: keys and roles, bodies, errors, answers, the schema. Knows no domain."""
