"""What tinycnn claims in figures, measured beside its peers."""
