"""Labels that were given elsewhere: read from a file, checked as a whole, fetched, placed, and then written."""
