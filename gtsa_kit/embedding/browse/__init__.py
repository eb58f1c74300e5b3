"""Search, near-duplicates and maps of an embedded dataset."""
