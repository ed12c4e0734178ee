"""python -m minilib tour: both papers end to end on this machine, and the report that it writes."""
