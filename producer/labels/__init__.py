"""Labels from files and the command line: read, checked as a whole, and written after their images were fetched."""
