"""Files that are shipped beside an artifact: a model card and a bill of materials."""
