"""Export of an encoder to each file format."""
