"""What people read at the end: the report of one run, and the tables over many. Reads files only; never imports torch."""
