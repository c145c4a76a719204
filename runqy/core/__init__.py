"""What every part of runqy stands on: formats, environment, telemetry, git. It knows no app."""
