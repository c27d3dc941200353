"""Formats that need an extra: videos, PDF, DICOM. Imported where such a file comes."""
