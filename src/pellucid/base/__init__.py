"""What every floor stands on: errors, records, seeds, safe writing."""
