"""The schema's versions, one module each, in the order in which they were released."""
